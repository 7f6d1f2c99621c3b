"""A model as Hugging Face's folders have it: config.json, tokenizer.json, *.safetensors."""
