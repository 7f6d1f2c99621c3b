// The list of operations at /docs, made from the server's own OpenAPI document. Everything is inserted as text.
import { KEY_ITEM, openApi } from "./api.js";

const METHODS = ["get", "post", "put", "delete"];
const TITLES = {
  native: "Native, llama.cpp and operation",
  openai: "OpenAI, models and integrations",
  ollama: "Ollama and LM Studio",
  anthropic: "Anthropic",
};

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A table in a box of its own, which scrolls where the screen is narrow. */
function table(columns, rows) {
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...[cell].flat()))));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

/** A disclosure whose content is made when it is first opened: schemas may refer to themselves. */
function disclosure(summary, content, properties = {}) {
  const made = make("details", properties, make("summary", {}, ...[summary].flat()));
  made.addEventListener("toggle", () => made.open && made.children.length === 1 && made.append(...content()));
  return made;
}

const nameOf = (reference) => reference.split("/").pop();
const isNull = (schema) => schema.type === "null";

/** What of a schema is to be shown in a line: words, and the object schemas that it names. */
function typeOf(schema) {
  if (schema.$ref) return { text: nameOf(schema.$ref), references: [schema.$ref] };
  const options = schema.anyOf ?? schema.oneOf;
  if (options) {
    const parts = options.filter((option) => !isNull(option)).map(typeOf);
    return { text: parts.map((part) => part.text).join(" or "), references: parts.flatMap((part) => part.references) };
  }
  if (schema.enum) return { text: schema.enum.map((value) => JSON.stringify(value)).join(", "), references: [] };
  if ("const" in schema) return { text: JSON.stringify(schema.const), references: [] };
  if (schema.type === "array" && schema.items) {
    const items = typeOf(schema.items);
    return { text: `array of ${items.text}`, references: items.references };
  }
  if (schema.contentSchema) {
    const content = typeOf(schema.contentSchema);
    return { text: `JSON of ${content.text}`, references: content.references };
  }
  const values = typeof schema.additionalProperties === "object" ? schema.additionalProperties : null;
  if (values && Object.keys(values).length) {
    const value = typeOf(values);
    return { text: `object of ${value.text}`, references: value.references };
  }
  return { text: (schema.type ?? "any") + rangeOf(schema), references: [] };
}

const NO_LIMIT = 2 ** 31 - 1; // the largest number that the server takes anywhere tells a reader nothing

function rangeOf(schema) {
  const minimum = schema.minimum;
  const maximum = schema.maximum === NO_LIMIT ? undefined : schema.maximum;
  if (minimum === undefined && maximum === undefined) return "";
  if (maximum === undefined) return `, at least ${minimum}`;
  return minimum === undefined ? `, at most ${maximum}` : `, ${minimum} to ${maximum}`;
}

const described = (schema) =>
  schema.description ?? (schema.anyOf ?? []).map((option) => option.description).find(Boolean) ?? "";

class Schemas {
  constructor(components) {
    this.components = components;
  }

  /** Elements that show a schema: a line, and below it the objects that it names. */
  show(schema) {
    const { text, references } = typeOf(schema);
    if (schema.properties) return [this.fields(schema)];
    if (schema.$ref) return [make("p", {}, make("code", {}, text)), ...this.object(schema.$ref)];
    return [make("code", {}, text), ...references.map((reference) => this.reference(reference))];
  }

  object(reference) {
    const schema = this.components[nameOf(reference)] ?? {};
    const words = schema.description ? [make("p", { className: "hint" }, schema.description)] : [];
    return [...words, ...(schema.properties ? [this.fields(schema)] : [make("code", {}, typeOf(schema).text)])];
  }

  reference(reference) {
    return disclosure(make("code", {}, nameOf(reference)), () => this.object(reference));
  }

  fields(schema) {
    const required = new Set(schema.required ?? []);
    const entries = Object.entries(schema.properties);
    entries.sort(([first], [second]) => required.has(second) - required.has(first)); // stable: else as declared
    const rows = entries.map(([name, field]) => [
      make("code", {}, name),
      this.show(field.$ref ? { anyOf: [field] } : field),
      required.has(name) ? "always" : field.default == null ? "" : `default ${JSON.stringify(field.default)}`,
      described(field),
    ]);
    return table(["Field", "Type", "Present", "Meaning"], rows);
  }
}

function content(media, schemas) {
  return Object.entries(media ?? {}).flatMap(([type, { schema }]) => [
    make("h4", {}, make("code", {}, type)),
    ...schemas.show(schema ?? {}),
  ]);
}

function show(method, path, operation, schemas) {
  const summary = [
    make("span", { className: "method" }, method.toUpperCase()),
    make("code", {}, path),
    make("span", { className: "summary" }, operation.summary),
  ];
  return disclosure(
    summary,
    () => {
      const made = [];
      if (operation.parameters) {
        const rows = operation.parameters.map(({ name, in: where, schema }) => [
          make("code", {}, name),
          where,
          schemas.show(schema),
        ]);
        made.push(make("h3", {}, "Parameters"), table(["Name", "In", "Type"], rows));
      }
      if (operation.requestBody) {
        made.push(make("h3", {}, "Request"), ...content(operation.requestBody.content, schemas));
      }
      made.push(make("h3", {}, "Answer"), ...content(operation.responses["200"]?.content, schemas), make("h3", {}, "Errors"));
      const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
      made.push(table(["Status", "When"], errors.map(([status, { description }]) => [status, description])));
      const shape = errors[0]?.[1].content?.["application/json"]?.schema?.$ref;
      if (shape) made.push(schemas.reference(shape));
      return made;
    },
    { className: "operation", id: operation.operationId },
  );
}

function filter(sections) {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const section of sections) {
    let any = false;
    for (const operation of section.querySelectorAll("details.operation")) {
      const text = operation.querySelector("summary").textContent.toLowerCase();
      operation.hidden = !words.every((word) => text.includes(word));
      any ||= !operation.hidden;
      shown += !operation.hidden;
    }
    section.hidden = !any;
  }
  document.getElementById("state").textContent = shown === 1 ? "1 operation" : `${shown} operations`;
}

/** Open the operation that the address names, as /docs#post_generate. */
function follow() {
  const named = document.getElementById(location.hash.slice(1));
  if (!named?.matches("details.operation")) return;
  named.open = true;
  named.querySelector("summary").focus();
}

async function start() {
  const found = await openApi(sessionStorage.getItem(KEY_ITEM) ?? "");
  const schemas = new Schemas(found.components.schemas);
  const groups = new Map();
  for (const [path, entry] of Object.entries(found.paths)) {
    for (const method of METHODS.filter((name) => entry[name])) {
      const tag = entry[method].tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(show(method, path, entry[method], schemas));
    }
  }
  const sections = [...groups].map(([tag, operations]) => {
    const title = make("h2", { id: `tag-${tag}` }, TITLES[tag] ?? tag);
    const section = make("section", {}, title, ...operations);
    section.setAttribute("aria-labelledby", title.id);
    return section;
  });
  document.getElementById("version").textContent = found.info.version;
  document.getElementById("operations").append(...sections);
  document.getElementById("filter").addEventListener("input", () => filter(sections));
  filter(sections);
  window.addEventListener("hashchange", follow);
  follow();
}

start().catch((error) => {
  document.getElementById("state").textContent = "";
  document.getElementById("error").textContent = error.message;
});
