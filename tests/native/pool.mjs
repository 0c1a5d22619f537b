// node pool.mjs MODULE SLOTS: steps the streams of a pool as which.json says, with the frames in in_<i>; writes out_<i> and states.
import { readFileSync, writeFileSync } from "node:fs";

const [module, slots] = process.argv.slice(2);
const { load, MODEL } = await import(module);
const kinds = { float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, bool: Uint8Array };
const model = await load();
if (!model.selftest()) { console.error("the self-test failed"); process.exit(7); }
const inputs = MODEL.inputs.map((port, index) => {
  const bytes = readFileSync(`in_${index}`);
  return new kinds[port.dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
});
const pool = model.pool(Number(slots));
const made = MODEL.outputs.map(() => []);
let row = 0;
const step = (which, count) => pool.step(which, ...MODEL.inputs.map((port, index) => inputs[index].slice(row * port.size, (row + count) * port.size)));
for (const which of JSON.parse(readFileSync("which.json", "utf8"))) {
  const result = step(which, which.length);
  MODEL.outputs.forEach((port, index) => made[index].push(MODEL.outputs.length === 1 ? result : result[port.name]));
  row += which.length;
}
row = 0;
const states = () => Array.from({ length: pool.slots }, (_, slot) => pool.state(slot));
const before = states();
for (const which of [[0, 0], [pool.slots], [-1], Array.from({ length: MODEL.pool.streams + 1 }, (_, slot) => slot)]) {
  let refused = false;
  try { step(which, which.length); } catch (error) { refused = error instanceof RangeError; }
  if (!refused) { console.error(`slots ${which} were taken`); process.exit(8); }
}
const bytes = (arrays) => Buffer.concat(arrays.map((a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength)));
if (bytes(before).compare(bytes(states()))) process.exit(9);
made.forEach((parts, index) => writeFileSync(`out_${index}`, bytes(parts)));
writeFileSync("states", bytes(before));
const stream = model.stream();
stream.state = pool.state(0);
pool.restore(1, stream.state);
pool.reset(0);
if (bytes([pool.state(1)]).compare(bytes([before[0]]))) process.exit(10);
pool.close();
