"""What llama.cpp's own tests expect of chats, beside what comes of it here."""
