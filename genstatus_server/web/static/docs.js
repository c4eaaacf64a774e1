/** Renders the OpenAPI document of this server: every path, what may be asked, what is answered, an example of each. */

const main = document.querySelector("main");
const METHODS = ["get", "head", "options"];

/** An element with children; a text may have `code` in backquotes. */
function make(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function prose(text = "") {
  return make("span", ...text.split("`").map((part, index) => (index % 2 ? make("code", part) : part)));
}

function json(value) {
  const block = make("pre", typeof value === "string" ? value : JSON.stringify(value, null, 2));
  block.tabIndex = 0; // It may have to be scrolled, by keys too.
  return block;
}

function table(caption, head, rows) {
  if (!rows.length) return null;
  const line = (cell, cells) => make("tr", ...cells.map((content) => make(cell, content)));
  const made = make("table", make("thead", line("th", head)), make("tbody", ...rows.map((cells) => line("td", cells))));
  const wide = make("div", made);
  wide.className = "wide";
  return make("div", make("h4", caption), wide);
}

/** What stands at a `$ref`, or the object itself. */
function resolve(root, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((found, name) => found[name], root);
}

/** A schema in one line, such as "D1 | D2", "integer ≥ 1"; more than that is in the document. */
function inShort(schema) {
  if (schema.const !== undefined) return make("code", JSON.stringify(schema.const));
  if (schema.enum) return make("code", schema.enum.map(String).join(" | "));
  if (schema.anyOf) return make("span", ...schema.anyOf.flatMap((each, at) => [at ? " or " : "", inShort(each)]));
  const bounds = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", pattern: "like" };
  const limits = Object.entries(bounds).filter(([name]) => name in schema);
  return make("code", [schema.type, ...limits.map(([name, sign]) => `${sign} ${schema[name]}`)].flat().join(" "));
}

function parameters(root, operation) {
  const rows = (operation.parameters ?? []).map((each) => resolve(root, each));
  const cells = rows.map(({ name, in: place, required, schema, description, example }) => [
    make("code", name),
    `${place}${required ? ", required" : ""}`,
    inShort(schema),
    prose(description),
    make("code", String(example ?? schema.examples?.[0] ?? "")),
  ]);
  return table("Parameters", ["name", "where", "type", "meaning", "example"], cells);
}

function answer(root, status, answer) {
  const { description, headers = {}, content = {} } = resolve(root, answer);
  const rows = Object.entries(headers).map(([name, header]) => {
    const { schema, description: meaning, example } = resolve(root, header);
    return [make("code", name), inShort(schema), prose(meaning), make("code", String(example))];
  });
  const bodies = Object.entries(content).flatMap(([type, { schema, examples = {} }]) => [
    make("h4", "Body: ", make("code", type)),
    ...Object.entries(examples).map(([name, { value }]) => make("figure", make("figcaption", name), json(value))),
    make("details", make("summary", "Schema"), json(resolve(root, schema))),
  ]);
  const headersOf = table("Headers", ["name", "type", "meaning", "example"], rows);
  return make("details", make("summary", make("strong", status), " ", prose(description)), ...bodies, headersOf);
}

function operation(root, path, method, { summary, description, security, parameters: asked, responses }) {
  const section = make("section", make("h3", make("code", `${method.toUpperCase()} ${path}`)));
  section.append(make("p", prose(method === "head" ? "Answers like GET, without a body." : summary)));
  if (method === "head") return section;
  if (description) section.append(make("p", prose(description)));
  for (const name of (security ?? []).flatMap(Object.keys)) {
    const scheme = root.components.securitySchemes[name];
    section.append(make("p", "Needs the ", scheme.in, " ", make("code", scheme.name), ": ", prose(scheme.description)));
  }
  const list = parameters(root, { parameters: asked });
  if (list) section.append(list);
  section.append(...Object.entries(responses).map(([status, each]) => answer(root, status, each)));
  return section;
}

function render(root) {
  document.querySelector("h1").textContent = `${root.info.title} ${root.info.version}`;
  main.append(make("p", prose(root.info.summary), " ", prose(root.info.description)));
  for (const [path, item] of Object.entries(root.paths)) {
    main.append(make("h2", path));
    const methods = METHODS.filter((method) => item[method]);
    main.append(...methods.map((method) => operation(root, path, method, item[method])));
  }
}

try {
  const response = await fetch(new URL("openapi.json", location.href), { cache: "no-store" });
  render(await response.json());
} catch (error) {
  main.append(make("p", `The document could not be read: ${error.message}`));
}
main.setAttribute("aria-busy", "false");
