// Detects defects with a folder of `mendiff export --to onnx`, without Python:
//
//   npm install && node predict.mjs exported part.png other.png
//
// Prints a JSON line per PNG image: score, threshold, verdict and p-value. For models of stretched images without
// alignment and with a fixed number of steps; docs/export.md has the steps, and what other models need.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { blake2b } from "@noble/hashes/blake2.js";
import ort from "onnxruntime-node";
import { PNG } from "pngjs";

const f32 = Math.fround;

/** Weights of bilinear resizing with antialiasing along a line; float32 arithmetic as in torch. */
function triangles(length, count) {
  const scale = f32(length / count);
  const support = scale >= 1 ? scale : 1;
  const inverse = scale >= 1 ? f32(1 / scale) : 1;
  return Array.from({ length: count }, (_, at) => {
    const centre = f32(scale * (at + 0.5));
    const first = Math.max(Math.trunc(f32(centre - support) + 0.5), 0);
    const last = Math.min(Math.trunc(f32(centre + support) + 0.5), length);
    const shares = [];
    for (let n = first; n < last; n++) {
      const share = f32(1 - Math.abs(f32((f32(n - centre) + 0.5) * inverse)));
      shares.push(share > 0 ? share : 0);
    }
    const total = shares.reduce((sum, share) => f32(sum + share), 0);
    return { first, weights: shares.map((share) => f32(share / total)) };
  });
}

/** Resizes one line of values with a stride; the last incomplete group of four products is fused with the sum. */
function resizeLine(source, start, stride, taps, target, to, step) {
  taps.forEach(({ first, weights }, at) => {
    const value = (tap) => source[start + (first + tap) * stride];
    let total = f32(value(0) * weights[0]);
    const fused = 1 + Math.floor((weights.length - 1) / 4) * 4;
    for (let tap = 1; tap < weights.length; tap++) {
      const product = value(tap) * weights[tap];
      total = f32((tap < fused ? f32(product) : product) + total);
    }
    target[to + at * step] = total;
  });
}

/** A PNG as (3,S,S) float32 in [0,1]. */
function prepare(path, side) {
  const { width, height, data } = PNG.sync.read(readFileSync(path));
  const image = new Float32Array(3 * side * side);
  for (let c = 0; c < 3; c++) {
    let plane = Float32Array.from({ length: width * height }, (_, n) => f32(data[4 * n + c] / 255));
    if (width !== side) {
      const narrow = new Float32Array(height * side);
      const taps = triangles(width, side);
      for (let y = 0; y < height; y++) resizeLine(plane, y * width, 1, taps, narrow, y * side, 1);
      plane = narrow;
    }
    if (height !== side) {
      const low = new Float32Array(side * side);
      const taps = triangles(height, side);
      for (let x = 0; x < side; x++) resizeLine(plane, x, side, taps, low, x, side);
      plane = low;
    }
    image.set(plane.map((value) => Math.min(Math.max(value, 0), 1)), c * side * side);
  }
  return image;
}

/** Rounds halves to the even integer, as NumPy does. */
const rint = (value) => {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
};

const poly = (coefficients, x) => coefficients.reduceRight((sum, one) => sum * x + one, 0);

/** Quantile of the standard normal distribution for p > 1/2 (Wichura 1988, AS 241). */
function quantile(p) {
  const q = p - 0.5;
  if (q <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * poly([3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
      45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727], r)) /
      poly([1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077, 21213.794301586595867,
        39307.89580009271061, 28729.085735721942674, 5226.495278852545925], r);
  }
  const r = Math.sqrt(-Math.log(1 - p));
  return r <= 5
    ? poly([1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
        1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4], r - 1.6) /
      poly([1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455, 0.14810397642748007459,
        0.0151986665636164571966, 5.475938084995344946e-4, 1.05075007164441684324e-9], r - 1.6)
    : NaN; // not for 65,536 levels
}

const UPPER = Float32Array.from({ length: 32768 }, (_, n) => quantile((n + 32768.5) / 65536));
const MASK = (1n << 64n) - 1n;

/** The noise of an image: BLAKE2b of its 8-bit pixels seeds splitmix64, whose 16-bit parts are ranks. */
function noise(image, count) {
  const pixels = Uint8Array.from(image, (value) => rint(f32(value * 255)));
  const digest = blake2b(pixels, { dkLen: 8 });
  const seed = digest.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n) >> 1n;
  const drawn = new Float32Array(count);
  for (let word = 0n, at = 0; at < count; word++) {
    let z = (seed + (word + 1n) * 0x9e3779b97f4a7c15n) & MASK;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
    z ^= z >> 31n;
    for (let part = 0; part < 4 && at < count; part++, at++, z >>= 16n) {
      const rank = Number(z & 0xffffn);
      drawn[at] = rank >= 32768 ? UPPER[rank - 32768] : -UPPER[32767 - rank];
    }
  }
  return drawn;
}

const [folder, ...paths] = process.argv.slice(2);
const model = JSON.parse(readFileSync(join(folder, "metadata.json"), "utf8"));
if (model.upright || model.letterbox || model.tile || model.search || model.region) {
  console.error("expected a model of stretched images without alignment, regions and adaptive search");
  process.exit(2);
}
const session = await ort.InferenceSession.create(join(folder, model.graph));
for (const path of paths) {
  const image = prepare(path, model.side);
  const draws = noise(image, model.noise.reduce((product, size) => product * size, 1));
  const found = await session.run({
    image: new ort.Tensor("float32", image, [1, 3, model.side, model.side]),
    noise: new ort.Tensor("float32", draws, [1, ...model.noise]),
  });
  const score = found.score.data[0];
  const scores = model.calibration.scores;
  const hits = scores.filter((one) => one >= score).length;
  const verdict = { defective: score > model.threshold, p_value: (1 + hits) / (1 + scores.length) };
  console.log(JSON.stringify({ image: path, score, threshold: model.threshold, ...verdict }));
}
