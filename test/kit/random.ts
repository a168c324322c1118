/** Numbers that follow from a seed. [mulberry32] */
export interface Random {
  /** In [0, 1). */
  next(): number
  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number
  /** @throws Error when there is nothing to choose from */
  pick<Value>(values: readonly Value[]): Value
}

/** Makes a source of numbers: the same seed, the same numbers. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const between = (low: number, high: number) => low + Math.floor(next() * (high - low + 1))
  return {
    next,
    between,
    pick(values) {
      const value = values[between(0, values.length - 1)]
      if (value === undefined) throw new Error('nothing to choose from')
      return value
    },
  }
}

/** The seed that `OUTPORT_SEED` names, else a new one; print it, so that a failure can be had again. */
export function chooseSeed(): number {
  const chosen = process.env['OUTPORT_SEED']
  return chosen === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(chosen)
}
