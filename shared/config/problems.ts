/** One thing wrong with the configuration. */
export interface ConfigProblem {
  /** Where: `primary.listeners.0.port`, a variable's name, or the file. */
  readonly path: string
  readonly message: string
}

/** Everything that is wrong with a configuration, at once: one line a problem. Never holds a secret. */
export class ConfigError extends Error {
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[]) {
    super(problems.map(({ path, message }) => `${path}: ${message}`).join('\n'))
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/**
 * A hint for a mistyped word.
 * @returns `; did you mean 'listeners'?`, or nothing when no candidate is near
 */
export function didYouMean(word: string, candidates: readonly string[]): string {
  // Two letters swapped are two edits; in a word of three that would be another word.
  const limit = word.length < 4 ? 1 : Math.max(2, Math.floor(word.length / 3))
  let best: { candidate: string; distance: number } | undefined
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    if (distance <= limit && (best === undefined || distance < best.distance)) {
      best = { candidate, distance }
    }
  }
  return best === undefined ? '' : `; did you mean '${best.candidate}'?`
}

/** Levenshtein's distance, by rows. */
function editDistance(from: string, to: string): number {
  let above = Array.from({ length: to.length + 1 }, (_, column) => column)
  for (let row = 1; row <= from.length; row++) {
    const current = [row]
    for (let column = 1; column <= to.length; column++) {
      const substitution = (above[column - 1] ?? 0) + (from[row - 1] === to[column - 1] ? 0 : 1)
      current.push(Math.min(substitution, (above[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1))
    }
    above = current
  }
  return above[to.length] ?? 0
}
