import { SourceError } from '../stream/blob-source.ts'
import type { Pace, Slowness } from './paces.ts'

/** Slower than the others: it may have been starved for a moment. */
export const slower = new SourceError('unavailable', 'slower than the others')
/** It gives next to nothing while others begin and end. */
export const standing = new SourceError('unavailable', 'gives next to nothing')
/** Nothing else is left to ask for, and another one would give this sooner: nobody is to blame. */
export const last = new SourceError('unavailable', 'the last to give its part')

export const isCut = (error: SourceError): boolean => [slower, standing, last].includes(error)

const still: Slowness = { fromMs: 1500, factor: 16, overtakenBy: 4 }
const stillDoubted: Slowness = { fromMs: 500, factor: 16, overtakenBy: 4 }
const stillLast: Slowness = { fromMs: 500, factor: 16, overtakenBy: 0 }
const slowLast: Slowness = { fromMs: 500, factor: 4, overtakenBy: 0 }

/**
 * Why a request for a part is not waited for any longer; undefined while it is.
 * @param isDoubted another edge comes here for this part because its home gave it nothing
 * @param isIdle nothing else is left to ask for
 * @param isReplaceable another edge may be asked for this
 */
export function reasonToCut(
  pace: Pace,
  {
    isDoubted,
    isIdle,
    isReplaceable,
  }: { readonly isDoubted: boolean; readonly isIdle: boolean; readonly isReplaceable: boolean },
): SourceError | undefined {
  if (pace.isSlow(isDoubted ? stillDoubted : still)) return standing
  if (isIdle && pace.isSlow(stillLast)) return standing
  if (pace.isSlow()) return slower
  return isIdle && isReplaceable && pace.isSlow(slowLast) ? last : undefined
}
