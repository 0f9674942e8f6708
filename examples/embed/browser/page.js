// The page: loads the model, then draws one evaluation at a time, so that the picture can be seen to appear.
import * as ort from "./ort/ort.wasm.min.mjs";
import { Pipeline } from "./pipeline.mjs";

const EXAMPLES = ["a red apple", "a cat", "a blue heart", "a rocket", "a slice of pizza", "a yellow flower"];
const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const canvas = at.picture.getContext("2d");
let pipeline;
let stop; // false while it draws, true where it is to stop

ort.env.wasm.proxy = true; // in a worker, so that the page stays responsive; with threads where the page is isolated

function say(text, bad = false) {
  at.status.textContent = text;
  at.status.classList.toggle("bad", bad);
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok)
    throw new Error(`${url} is not there (${response.status}): put what diffrt export --form single wrote into model/`);
  const size = Number(response.headers.get("Content-Length"));
  const parts = [];
  let got = 0;
  for await (const part of chunks(response.body.getReader())) {
    parts.push(part);
    got += part.length;
    at.progress.value = size ? Math.min(1, got / size) : 0;
    if (got > 1e6) say(`Loading the model: ${(got / 1e6).toFixed(0)} MB…`);
  }
  return new Blob(parts);
}

async function* chunks(reader) {
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

async function load() {
  const model = await download("model/pipeline.onnx");
  say("Preparing the model…");
  const textOf = async (name) => (await download(`model/${name}`)).text();
  pipeline = await Pipeline.load(ort, new Uint8Array(await model.arrayBuffer()), textOf);
  at.steps.append(...pipeline.steps.map((count) => new Option(count, count, false, count === pipeline.defaults.steps)));
  at.strength.value = at.guidance.value = pipeline.defaults.guidance;
  at.draw.disabled = false;
  at.progress.value = 0;
  say("Ready: press Draw, or choose an example.");
}

async function draw() {
  const began = performance.now();
  const settings = {
    prompt: at.prompt.value,
    negative: at.negative.value,
    seed: Number(at.seed.value),
    steps: Number(at.steps.value),
    guidance: Number(at.guidance.value),
  };
  stop = false;
  at.draw.textContent = "Stop";
  at.progress.value = 0;
  say("Drawing…");
  try {
    for await (const { done, of, pixels, width, height, cut } of pipeline.generate(settings)) {
      show(pixels, width, height);
      at.progress.value = done / of;
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      const note = cut ? ` The prompt's last ${cut} tokens did not fit.` : "";
      const result = `“${settings.prompt}”, seed ${settings.seed}: ${of} ${of > 1 ? "steps" : "step"} in ${seconds} s.`;
      say((done < of ? `Drawing: step ${done} of ${of}, ${seconds} s.` : result) + note);
      if (done === of) keep(settings);
      if (stop && done < of) return say(`Stopped after step ${done} of ${of}.`);
    }
  } finally {
    at.draw.textContent = "Draw";
    stop = undefined;
  }
}

function show(rgb, width, height) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < rgb.length; to += 4)
    image.data.set([rgb[from++], rgb[from++], rgb[from++], 255], to);
  [at.picture.width, at.picture.height] = [width, height];
  canvas.putImageData(image, 0, 0);
}

function keep({ prompt, seed }) {
  at.save.href = at.picture.toDataURL();
  at.save.hidden = false;
  const small = Object.assign(new Image(), { src: at.save.href, alt: prompt, title: `${prompt}, seed ${seed}` });
  small.onclick = () => {
    canvas.drawImage(small, 0, 0);
    [at.prompt.value, at.seed.value, at.save.href] = [prompt, seed, small.src];
  };
  at.earlier.prepend(small);
}

const failed = (error) => say(error.message, true);
at.examples.append(
  ...EXAMPLES.map((text) => Object.assign(document.createElement("button"), { type: "button", textContent: text })),
);
at.examples.onclick = ({ target }) =>
  target.type === "button" && ((at.prompt.value = target.textContent), at.form.requestSubmit());
at.guidance.oninput = () => (at.strength.value = at.guidance.value);
at.dice.onclick = () => (at.seed.value = Math.floor(Math.random() * 10000));
at.form.onsubmit = (event) => {
  event.preventDefault();
  if (stop === false) stop = true;
  else if (pipeline) draw().catch(failed);
};
load().catch(failed);
