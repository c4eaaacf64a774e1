/** Renders the OpenAPI document of this server: every path, what may be sent, what is answered, an example of each. */

const main = document.querySelector("main");

/** An element with children; those that are null are left out. */
function make(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function styled(name, element) {
  element.className = name;
  return element;
}

/** A text may have `code` in backquotes. */
function prose(text = "") {
  return make("span", ...text.split("`").map((part, index) => (index % 2 ? make("code", part) : part)));
}

function link(target, text) {
  const element = make("a", text);
  element.href = target;
  return element;
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
  const wide = styled("wide", make("div", made));
  wide.tabIndex = 0;
  wide.setAttribute("role", "group");
  wide.setAttribute("aria-label", caption);
  return make("div", make("h4", caption), wide);
}

/** What stands at a `$ref`, or the object itself. */
function resolve(root, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((found, name) => found[name], root);
}

/** A schema in one line, such as "D1 | D2", "integer ≥ 1"; more than that is in the document. */
function inShort(schema) {
  if (schema.enum) return make("code", schema.enum.map(String).join(" | "));
  if (schema.type === "array") return make("span", "list of ", inShort(schema.items));
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
  return table("Parameters", ["Name", "Where", "Type", "Meaning", "Example"], cells);
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
  const code = styled(status < 400 ? "ok" : "refused", make("strong", status));
  const headersOf = table("Headers", ["Name", "Type", "Meaning", "Example"], rows);
  return make("details", make("summary", code, " ", prose(description)), ...bodies, headersOf);
}

function answers(root, responses) {
  return make("div", make("h4", "Answers"), ...Object.entries(responses).map(([status, each]) => answer(root, status, each)));
}

/** A path: its GET, and folded away the methods that all paths have alike. */
function path(root, name, { get, options }) {
  const { summary, description, security, parameters: sent, responses } = get;
  const method = styled("method", make("span", "GET"));
  const section = styled("operation card", make("section", make("h3", method, " ", make("code", name))));
  section.id = get.operationId;
  section.append(make("p", prose(summary)));
  if (description) section.append(make("p", prose(description)));
  for (const scheme of (security ?? []).flatMap(Object.keys).map((each) => root.components.securitySchemes[each])) {
    section.append(make("p", "Needs the ", scheme.in, " ", make("code", scheme.name), ": ", prose(scheme.description)));
  }
  const others = make("details", make("summary", "HEAD and OPTIONS"), make("p", "HEAD answers like GET, without a body."));
  others.append(make("p", "OPTIONS: ", prose(options.summary)), answers(root, options.responses));
  section.append(...[parameters(root, { parameters: sent }), answers(root, responses)].filter(Boolean), others);
  return section;
}

function render(root) {
  const { title, version, summary, description } = root.info;
  const machines = make("span", "For machines: ", link("openapi.json", "openapi.json"));
  main.append(styled("intro", make("p", make("strong", `${title} ${version}. `), prose(summary), " ", prose(description), " ", machines)));
  const contents = styled("contents card", make("nav"));
  contents.setAttribute("aria-label", "Contents");
  const body = make("div");
  main.append(contents, body);
  for (const { name: tag, description: about } of root.tags) {
    const paths = Object.entries(root.paths).filter(([, { get }]) => get.tags.includes(tag));
    body.append(styled("group", make("h2", about.replace(/\.$/, ""))), ...paths.map(([name, item]) => path(root, name, item)));
    const links = paths.map(([name, { get }]) => make("li", link(`#${get.operationId}`, name)));
    contents.append(make("h2", about.replace(/\.$/, "")), make("ul", ...links));
  }
}

/** Integers that a number cannot hold exactly become texts, so that they are shown as they are. */
function parse(text) {
  return JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|\d{16,}/g, (part) => (part[0] === '"' ? part : `"${part}"`)));
}

try {
  const response = await fetch(new URL("openapi.json", location.href), { cache: "no-store" });
  render(parse(await response.text()));
  if (location.hash) document.querySelector(location.hash)?.scrollIntoView();
} catch {
  main.append(make("p", "The description of the API could not be loaded. Reload the page to try again."));
}
main.setAttribute("aria-busy", "false");
