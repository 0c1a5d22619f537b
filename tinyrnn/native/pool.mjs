
const POOL_BYTES = 16;

/** Many live inputs: slots with a state each, any of which step together. Arrays are flat, one stream after the other. */
class Pool {
  constructor(model, slots) {
    if (!Number.isInteger(slots) || slots < 1) throw new RangeError(`a pool of ${slots} slots; it takes a number from 1 up`);
    this.model = model;
    this.slots = slots;
    this.at = model.allocate(POOL_BYTES);
    this.statesAt = model.allocate(4 * MODEL.pool.stride * slots);
    this.arenaAt = model.allocate(MODEL.pool.arena_bytes);
    const weights = MODEL.weights ? [model.weightsAt, model.weightsBytes] : [];
    const status = model.call("pool_init", this.at, this.statesAt, slots, this.arenaAt, ...weights);
    if (status) throw new Error(status === -2 ? "the weights are those of another model" : `pool_init gives ${status}`);
  }

  /** One frame of the streams in these slots (an array, or null for all in order): an array with a frame of each for every input. */
  step(which, ...inputs) {
    const model = this.model;
    const count = which ? which.length : this.slots;
    const { pointers, made, memory, extra } = arrange(model, "step", MODEL.inputs, inputs, () => count, 8 * count);
    if (which) new BigInt64Array(memory, extra, count).set(Array.from(which, BigInt));
    const status = model.call("pool_step", this.at, which ? extra : 0, count, ...pointers);
    if (status === -5) throw new RangeError(`slots ${which}; a pool of ${this.slots} takes different ones from 0 to ${this.slots - 1}`);
    if (status === -6) throw new RangeError(`${count} streams; ${MODEL.name} was built for ${MODEL.pool.streams} a call at most (tinyrnn build --streams)`);
    check(status);
    return answer(made.map(({ view }) => view.slice()));
  }

  /** One slot back to the initial state; without a number all. */
  reset(slot) {
    for (const each of slot === undefined ? Array(this.slots).keys() : [slot]) this.model.call("pool_reset", this.at, this.#checked(each));
  }

  /** A copy of the state in a slot, which lies as that of a stream. */
  state(slot) { return this.#view(slot).slice(); }

  /** Take the state of a stream, or of another slot. */
  restore(slot, values) {
    if (values.length !== MODEL.state_floats) throw new RangeError(`the state has ${MODEL.state_floats} floats, not ${values.length}`);
    this.#view(slot).set(values);
  }

  /** Give the memory back; the pool is not used again. */
  close() {
    this.model.release(this.at, POOL_BYTES);
    this.model.release(this.statesAt, 4 * MODEL.pool.stride * this.slots);
    this.model.release(this.arenaAt, MODEL.pool.arena_bytes);
  }

  #checked(slot) {
    if (!Number.isInteger(slot) || slot < 0 || slot >= this.slots) throw new RangeError(`slot ${slot} is not in a pool of ${this.slots}`);
    return slot;
  }

  #view(slot) {
    const at = this.statesAt + 4 * MODEL.pool.stride * this.#checked(slot);
    return new Float32Array(this.model.exports.memory.buffer, at, MODEL.state_floats);
  }
}
