const ARRAYS = { float32: Float32Array, float64: Float64Array, bool: Uint8Array, int8: Int8Array, uint8: Uint8Array,
  int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array };
const STREAM_BYTES = 12;
const align = (n) => (n + 63) & ~63;

async function bytesOf(source, file) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  const url = source ?? new URL(file, import.meta.url);
  if (String(url).startsWith("file:") && typeof process !== "undefined") {
    const { readFile } = await import("node:fs/promises");
    return readFile(new URL(url));
  }
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

/** The model, from its .wasm beside this file, or from a URL or bytes; `weights` where these are in a file of their own. */
export async function load(wasm, weights) {
  const { instance } = await WebAssembly.instantiate(await bytesOf(wasm, MODEL.library), {});
  return new Model(instance.exports, MODEL.weights ? await bytesOf(weights, MODEL.weights) : null);
}

class Model {
  constructor(exports, weights) {
    this.exports = exports;
    this.end = exports.__heap_base.value;
    this.free = new Map();
    this.scratch = { at: 0, size: 0 };
    this.inputs = MODEL.inputs;
    this.outputs = MODEL.outputs;
    if (weights) {
      const bytes = ArrayBuffer.isView(weights) ? new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength) : new Uint8Array(weights);
      this.weightsAt = this.allocate(bytes.length);
      this.weightsBytes = bytes.length;
      new Uint8Array(exports.memory.buffer).set(bytes, this.weightsAt);
    }
  }

  /** A new live input in its initial state. */
  stream() { return new Stream(this); }

  /** So many new live inputs, which step together. */
  pool(slots) {
    if (!MODEL.pool) throw new Error(`${MODEL.name} was built without pools; tinyrnn build --streams 64 makes them`);
    return new Pool(this, slots);
  }

  call(name, ...args) { return this.exports[`${MODEL.name}_${name}`](...args); }

  allocate(bytes) {
    const size = align(Math.max(bytes, 1));
    const kept = this.free.get(size);
    if (kept?.length) return kept.pop();
    const at = align(this.end);
    this.end = at + size;
    const memory = this.exports.memory;
    const missing = this.end - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    return at;
  }

  release(at, bytes) {
    const size = align(Math.max(bytes, 1));
    this.free.set(size, [...(this.free.get(size) ?? []), at]);
  }

  /** Memory for the arrays of one call. */
  room(bytes) {
    if (bytes > this.scratch.size) {
      if (this.scratch.size) this.release(this.scratch.at, this.scratch.size);
      this.scratch = { at: this.allocate(2 * bytes), size: 2 * bytes };
    }
    return this.scratch.at;
  }

  /** Whether this engine gives the bits that were built in. */
  selftest() {
    const stream = this.stream();
    const good = this.call("selftest", stream.at) === 0;
    stream.close();
    if (!good || !MODEL.pool) return good;
    const pool = this.pool(16);
    const same = this.call("pool_selftest", pool.at) === 0;
    pool.close();
    return same;
  }
}

/** One live input. Arrays are flat, frames one after the other; several outputs come as an object by name. */
class Stream {
  constructor(model) {
    this.model = model;
    this.at = model.allocate(STREAM_BYTES);
    this.stateAt = model.allocate(4 * MODEL.state_floats);
    this.arenaAt = model.allocate(MODEL.arena_bytes);
    const weights = MODEL.weights ? [model.weightsAt, model.weightsBytes] : [];
    const status = model.call("init", this.at, this.stateAt, this.arenaAt, ...weights);
    if (status) throw new Error(status === -2 ? "the weights are those of another model" : `init gives ${status}`);
  }

  /** One frame: an array (or a number) for each input. */
  step(...inputs) {
    if (MODEL.most) throw new Error(`${MODEL.name} cannot stream: give whole sequences, of ${MODEL.most} frames at most, to run`);
    return this.#run("step", inputs, 1);
  }

  /** Many frames in one call. */
  run(...inputs) {
    const index = MODEL.inputs.findIndex((port) => port.per_frame);
    const length = inputs[index]?.length ?? 0;
    const frames = length / MODEL.inputs[index].size;
    if (!Number.isInteger(frames)) throw new RangeError(`input '${MODEL.inputs[index].name}' has ${length} elements; a frame has ${MODEL.inputs[index].size}`);
    return this.#run("run", inputs, frames);
  }

  /** The rows that still wait for frames, as if the sequence ended here; takes the inputs that belong to a call. */
  flush(...inputs) {
    if (!MODEL.functions.includes(`${MODEL.name}_flush`)) return answer(MODEL.outputs.map((port) => new ARRAYS[port.dtype](0)));
    return this.#run("flush", inputs, 0);
  }

  reset() { this.model.call("reset", this.at); }

  get #view() { return new Float32Array(this.model.exports.memory.buffer, this.stateAt, MODEL.state_floats); }

  /** A copy of the state; assign one to return there. */
  get state() { return this.#view.slice(); }

  set state(values) {
    if (values.length !== MODEL.state_floats) throw new RangeError(`the state has ${MODEL.state_floats} floats, not ${values.length}`);
    this.#view.set(values);
  }

  /** A new stream that goes on from here. */
  fork() {
    const other = new Stream(this.model);
    other.state = this.state;
    return other;
  }

  /** Give the memory back; the stream is not used again. */
  close() {
    this.model.release(this.at, STREAM_BYTES);
    this.model.release(this.stateAt, 4 * MODEL.state_floats);
    this.model.release(this.arenaAt, MODEL.arena_bytes);
  }

  #run(name, inputs, frames) {
    const model = this.model;
    const ports = MODEL.inputs.filter((port) => name !== "flush" || !port.per_frame);
    const rows = (port, output) => {
      if (!port.per_frame) return 1;
      return output ? (name === "flush" ? port.tail : (frames + MODEL.lead) * port.rate) : frames;
    };
    const { pointers, made, memory, extra } = arrange(model, name, ports, inputs, rows, 4 * MODEL.outputs.length);
    const status = model.call(name, this.at, ...(name === "run" ? [frames] : []), ...pointers, ...(MODEL.counted ? [extra] : []));
    if (status === -3) throw new Error("the sequence has ended with flush(); reset() begins another");
    if (status === -4) throw new Error(`a sequence of ${frames} frames; ${MODEL.name} was built for ${MODEL.most} at most`);
    check(status);
    const counts = new Uint32Array(memory, extra, MODEL.outputs.length);
    return answer(made.map(({ port, view }, index) => {
      const many = MODEL.counted && port.per_frame ? counts[index] : port.per_frame ? frames : 1;
      return view.slice(0, many * port.size);
    }));
  }
}

/** The arrays of one call in the module's memory: `rows(port, output)` of each port, then `space` bytes, aligned, at `extra`. */
function arrange(model, name, ports, inputs, rows, space) {
  if (inputs.length !== ports.length) throw new TypeError(`${name} takes ${ports.length} inputs: ${ports.map((port) => port.name).join(", ")}`);
  let bytes = 0;
  const place = (port, output) => {
    const elements = port.size * rows(port, output), offset = bytes;
    bytes += align(Math.max(elements, 1) * ARRAYS[port.dtype].BYTES_PER_ELEMENT);
    return { port, elements, offset };
  };
  const places = [...ports.map((port) => place(port, false)), ...MODEL.outputs.map((port) => place(port, true))];
  const room = model.room(bytes + space);
  const memory = model.exports.memory.buffer;
  const view = ({ port, elements, offset }) => new ARRAYS[port.dtype](memory, room + offset, elements);
  ports.forEach((port, index) => {
    const given = typeof inputs[index] === "number" || typeof inputs[index] === "bigint" ? [inputs[index]] : inputs[index];
    if (given.length !== places[index].elements) throw new RangeError(`input '${port.name}' has ${given.length} elements; ${name} takes ${places[index].elements}`);
    const big = port.dtype === "int64" || port.dtype === "uint64";
    view(places[index]).set(big && !(given instanceof ARRAYS[port.dtype]) ? Array.from(given, BigInt) : given);
  });
  const made = places.slice(ports.length).map((each) => ({ port: each.port, view: view(each) }));
  return { pointers: places.map(({ offset }) => room + offset), made, memory, extra: room + bytes };
}

function check(status) {
  if (status > 0) throw new RangeError(`input '${MODEL.inputs[status - 1].name}' holds an index that is out of range; nothing was changed`);
  if (status) throw new Error(`status ${status}`);
}

function answer(arrays) {
  if (arrays.length === 1) return arrays[0];
  return Object.fromEntries(MODEL.outputs.map((port, index) => [port.name, arrays[index]]));
}
