import { SourceError } from '../stream/blob-source.ts'
import type { Pace, Slowness } from './paces.ts'

/** Slower than the others: it may have been starved for a moment. */
export const slower = new SourceError('unavailable', 'slower than the others')
/** It gives next to nothing while others begin and end. */
export const standing = new SourceError('unavailable', 'gives next to nothing')
/** Nothing else is left to ask for, and another one would give this sooner: nobody is to blame. */
export const last = new SourceError('unavailable', 'the last to give its part')

export const isCut = (error: SourceError): boolean => [slower, standing, last].includes(error)

export interface PartState {
  /** Another edge comes here for this part because its home gave it nothing. */
  readonly isDoubted: boolean
  /** Nothing else is left to ask for. */
  readonly isIdle: boolean
  /** Another edge may be asked for this. */
  readonly isReplaceable: boolean
}

/**
 * @param patienceMs how long somebody may be slower than the others; a third of it, or a sixth where somebody waits for
 *   just this part, is enough for who gives next to nothing
 * @returns why a request for a part is not waited for any longer; undefined while it is
 */
export function createCuts(
  patienceMs: number,
): (pace: Pace, state: PartState) => SourceError | undefined {
  const slow: Slowness = { fromMs: patienceMs, factor: 4, overtakenBy: 0 }
  const still: Slowness = { fromMs: patienceMs / 3, factor: 16, overtakenBy: 4 }
  const stillDoubted: Slowness = { ...still, fromMs: patienceMs / 6 }
  const stillLast: Slowness = { ...stillDoubted, overtakenBy: 0 }
  const slowLast: Slowness = { ...stillLast, factor: 4 }

  return (pace, { isDoubted, isIdle, isReplaceable }) => {
    if (pace.isSlow(isDoubted ? stillDoubted : still)) return standing
    if (isIdle && pace.isSlow(stillLast)) return standing
    if (pace.isSlow(slow)) return slower
    return isIdle && isReplaceable && pace.isSlow(slowLast) ? last : undefined
  }
}
