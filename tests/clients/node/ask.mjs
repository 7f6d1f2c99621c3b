// What every script asks, and how it reports: one JSON object on standard output.
export const MODEL = "smollm2";
export const QUESTION = "What is the capital of France? One sentence.";
export const WEATHER = "What is the weather in Paris?";
export const TEXTS = ["A cat sleeps.", "The stock exchange fell by 3%."];
export const CITY = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};

// Runs each question in turn and prints the answers by name. A failed one is reported as { failed }.
export async function report(questions) {
  const answers = {};
  for (const [name, ask] of Object.entries(questions)) {
    try {
      answers[name] = await ask();
    } catch (error) {
      answers[name] = { failed: String(error?.stack ?? error) };
    }
  }
  process.stdout.write(JSON.stringify(answers));
}

// What an error that must come looks like: its type, status and text.
export async function errorOf(ask) {
  try {
    await ask();
  } catch (error) {
    return {
      type: error.constructor.name,
      status: error.status ?? error.statusCode ?? error.status_code,
      message: error.message,
    };
  }
  throw new Error("no error came");
}
