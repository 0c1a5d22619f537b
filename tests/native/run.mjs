// node run.mjs MODULE STEPS CHUNK: a model over the frames in in_<i>, half by step and half by run; writes out_<i>.
import { readFileSync, writeFileSync } from "node:fs";

const [module, steps, chunk] = process.argv.slice(2);
const { load, MODEL } = await import(module);
const kinds = { float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, bool: Uint8Array };
const model = await load();
if (!model.selftest()) { console.error("the self-test failed"); process.exit(7); }
const inputs = MODEL.inputs.map((port, index) => {
  const bytes = readFileSync(`in_${index}`);
  return new kinds[port.dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
});
const first = MODEL.inputs.findIndex((port) => port.per_frame);
const frames = inputs[first].length / MODEL.inputs[first].size;
const stream = model.stream();
const made = MODEL.outputs.map(() => []);
const keep = (result) => MODEL.outputs.forEach((port, index) => {
  const rows = MODEL.outputs.length === 1 ? result : result[port.name];
  if (port.per_frame) made[index].push(rows);
  else made[index] = [rows];
});
const part = (from, to) => MODEL.inputs.map((port, index) => port.per_frame ? inputs[index].slice(from * port.size, to * port.size) : inputs[index]);
let frame = 0;
for (; frame < Number(steps); frame++) keep(stream.step(...part(frame, frame + 1)));
while (frame < frames) {
  const next = Math.min(frame + Number(chunk), frames);
  keep(stream.run(...part(frame, next)));
  frame = next;
}
if (MODEL.functions.includes(`${MODEL.name}_flush`)) keep(stream.flush(...MODEL.inputs.flatMap((port, index) => port.per_frame ? [] : [inputs[index]])));
made.forEach((parts, index) => writeFileSync(`out_${index}`, Buffer.concat(parts.map((p) => Buffer.from(p.buffer, p.byteOffset, p.byteLength)))));
