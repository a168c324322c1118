import { setTimeout as delay } from 'node:timers/promises'

/** One thing that must work. */
export interface ReadinessCheck {
  /** `database`, `blobs`, `primary`. */
  readonly name: string
  readonly ok: boolean
  /** For the operator: shown on the metrics listener only. */
  readonly reason?: string
}

/** Who asks has a deadline of his own, and takes silence for the death of the whole program. */
const longestMs = 3_000

/**
 * Runs one check, which may hang as what it looks at does: no answer in time is a failed check.
 * @param look throws when it does not work
 */
export async function checkInTime(
  name: string,
  look: () => Promise<unknown>,
  deadlineMs = longestMs,
): Promise<ReadinessCheck> {
  const answered = new AbortController()
  const late = delay(deadlineMs, undefined, { signal: answered.signal }).then(
    () => ({ name, ok: false, reason: 'no answer in time' }),
    () => ({ name, ok: true }),
  )
  const looked = look().then(
    () => ({ name, ok: true }),
    (error: unknown) => ({ name, ok: false, reason: reasonOf(error) }),
  )
  try {
    return await Promise.race([looked, late])
  } finally {
    answered.abort()
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Looks at everything that must work; what it throws counts as not ready. */
export type Readiness = () => Promise<readonly ReadinessCheck[]>

/** Runs the checks; one that throws is one that failed. */
export async function lookAt(readiness: Readiness): Promise<readonly ReadinessCheck[]> {
  try {
    return await readiness()
  } catch (error) {
    return [{ name: 'readiness', ok: false, reason: reasonOf(error) }]
  }
}

/** Whether all of it works. */
export function isReady(checks: readonly ReadinessCheck[]): boolean {
  return checks.every(({ ok }) => ok)
}
