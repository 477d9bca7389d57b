// Uniforms of a seed: numpy.random.default_rng(seed).random(steps, dtype=numpy.float32), the same to the last bit.
// SeedSequence (O'Neill's seed_seq_fe) spreads the seed over 256 bits, PCG64 (XSL-RR 128/64) draws from them.

const MASK = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** @param {number|bigint} seed from 0 on  @returns {Float32Array} in [0, 1) */
export function noiseFromSeed(seed, steps) {
  if (BigInt(seed) < 0n) throw new RangeError(`seed ${seed}: at least 0 is expected`);
  const [a, b, c, d] = seedState(BigInt(seed));
  const increment = ((((c << 64n) | d) << 1n) | 1n) & MASK;
  const step = (state) => (state * MULTIPLIER + increment) & MASK;
  let state = step((step(0n) + ((a << 64n) | b)) & MASK);
  const uniforms = new Float32Array(steps);
  for (let i = 0; i < steps; i += 2) {
    state = step(state);
    const folded = (state >> 64n) ^ (state & 0xffffffffffffffffn);
    const turn = state >> 122n;
    const drawn = BigInt.asUintN(64, (folded >> turn) | (folded << ((64n - turn) & 63n)));
    uniforms[i] = (Number(drawn & 0xffffffffn) >>> 8) / 16777216; // the lower half first
    if (i + 1 < steps) uniforms[i + 1] = Number(drawn >> 40n) / 16777216;
  }
  return uniforms;
}

/** Four 64-bit numbers of a seed. */
function seedState(seed) {
  const words = [];
  do words.push(Number(seed & 0xffffffffn)); while ((seed >>= 32n) > 0n);
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value = (value ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((i) => hash(words[i] ?? 0));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  for (const word of words.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word));
  let other = 0x8b51f9dd;
  const state = [];
  for (let i = 0; i < 8; i++) {
    let value = (pool[i % 4] ^ other) >>> 0;
    other = Math.imul(other, 0x58f38ded) >>> 0;
    value = Math.imul(value, other) >>> 0;
    state.push(BigInt((value ^ (value >>> 16)) >>> 0));
  }
  return [0, 2, 4, 6].map((i) => state[i] | (state[i + 1] << 32n));
}
