// Gathers the page, the model and ONNX Runtime in one folder, which any web server can serve.
//
//     npm install
//     node site.mjs DEST site          DEST: what `diffrt export SOURCE DEST --form single` wrote
//     python3 -m http.server -d site
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";

const [model, site = "site"] = process.argv.slice(2);
const here = import.meta.dirname;
const runtime = join(here, "node_modules", "onnxruntime-web", "dist");
const FILES = [
  [here, "", ["index.html", "page.css", "page.js"]],
  [join(here, "..", "js"), "", ["clip_bpe.mjs", "pipeline.mjs"]],
  [runtime, "ort", ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]],
  [model ?? "", "model", ["pipeline.onnx", "vocab.json", "merges.txt"]],
];
if (!model) {
  console.error("site: usage: node site.mjs DEST [SITE]");
  process.exit(2);
}
for (const [folder, place, names] of FILES) {
  mkdirSync(join(site, place), { recursive: true });
  for (const name of names) {
    if (!existsSync(join(folder, name))) {
      console.error(
        `site: ${join(folder, name)} is missing: ${folder === runtime ? "run npm install here first" : "is it DEST?"}`,
      );
      process.exit(2);
    }
    copyFileSync(join(folder, name), join(site, place, name));
  }
}
console.log(`${site} is ready: python3 -m http.server -d ${site}`);
