// generate.onnx in the page: pictures from seeds, and on hover the source of each cell.

import * as ort from './node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';
import { noiseFromSeed } from './noise.js';

const find = (name) => document.getElementById(name);
const form = document.querySelector('form');
const button = document.querySelector('button');
ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send

async function load() {
  const answer = await fetch('graphs/export.json');
  if (!answer.ok) throw new Error('graphs/export.json is missing: see README.md');
  const facts = await answer.json();
  const session = await ort.InferenceSession.create('graphs/generate.onnx');
  return { facts, session };
}

/** Pixels (3, H, W) in [0, 1] and index map (h, w), flat, of a seed. */
async function generate({ facts, session }, seed) {
  const steps = facts.graphs.generate.inputs.noise.shape[1];
  const noise = new ort.Tensor('float32', noiseFromSeed(seed, steps), [1, steps]);
  const { images, index } = await session.run({ noise });
  return { pixels: images.data, index: Array.from(index.data, Number) };
}

function canvas(width, height) {
  const made = document.createElement('canvas');
  [made.width, made.height] = [width, height];
  return made;
}

function paint(pixels, [height, width]) {
  const made = canvas(width, height);
  const data = new ImageData(width, height);
  const area = width * height;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round(255 * pixels[c * area + i]);
    data.data[4 * i + 3] = 255;
  }
  made.getContext('2d').putImageData(data, 0, 0);
  return made;
}

function show(facts, seed, { pixels, index }) {
  const [rows, columns] = facts.grid;
  const picture = paint(pixels, facts.image_size);
  const veil = canvas(columns, rows);
  const context = veil.getContext('2d');
  picture.addEventListener('pointermove', (event) => {
    const row = Math.min(rows - 1, Math.floor((event.offsetY / picture.clientHeight) * rows));
    const column = Math.min(columns - 1, Math.floor((event.offsetX / picture.clientWidth) * columns));
    const source = index[Math.max(0, row) * columns + Math.max(0, column)];
    context.clearRect(0, 0, columns, rows);
    context.fillStyle = 'rgb(255 255 255 / 65%)';
    index.forEach((other, i) => other !== source && context.fillRect(i % columns, Math.floor(i / columns), 1, 1));
    tell(facts.sources[source], index.filter((other) => other === source).length / index.length);
  });
  picture.addEventListener('pointerleave', () => {
    context.clearRect(0, 0, columns, rows);
    tell(null);
  });
  const figure = document.createElement('figure');
  const caption = document.createElement('figcaption');
  caption.textContent = `seed ${seed}`;
  figure.append(picture, veil, caption);
  find('pictures').append(figure);
}

/** Name a source, and show its picture where there is one in sources/. */
function tell(id, share) {
  const [text, thumbnail] = [find('source'), find('thumbnail')];
  text.textContent = id === null ? '' : `${id}, ${Math.round(100 * share)} % of the picture`;
  if (id === null) {
    thumbnail.hidden = true;
    return;
  }
  const address = `sources/${encodeURIComponent(id)}.jpg`;
  if (thumbnail.getAttribute('src') !== address) {
    thumbnail.hidden = true;
    thumbnail.src = address;
  } else thumbnail.hidden = !thumbnail.naturalWidth;
}

function say(text, isError = false) {
  find('status').textContent = text;
  find('status').classList.toggle('error', isError);
}

async function answer(model) {
  const first = BigInt(find('seed').value);
  const count = Number(find('count').value);
  button.disabled = true;
  find('pictures').replaceChildren();
  const begun = performance.now();
  try {
    for (let i = 0; i < count; i++) {
      const seed = first + BigInt(i);
      say(`Picture ${i + 1} of ${count}…`);
      show(model.facts, seed, await generate(model, seed));
      await new Promise(requestAnimationFrame); // let it be seen
    }
    say(`${count} in ${((performance.now() - begun) / 1000).toFixed(1)} s, from ${model.facts.sources.length} sources.`);
  } catch (error) {
    say(error.message, true);
  }
  button.disabled = false;
}

find('thumbnail').addEventListener('load', () => (find('thumbnail').hidden = find('source').textContent === ''));

try {
  const model = await load();
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    answer(model);
  });
  button.disabled = false;
  say(`${model.facts.sources.length} sources, sampler ${model.facts.sampler}.`);
} catch (error) {
  say(error.message, true);
}
