/** SQLSTATEs after which the same transaction may simply be run again: deadlock, serialisation failure. */
const repeatable: ReadonlySet<unknown> = new Set(['40P01', '40001'])
const attempts = 5

/**
 * Runs a transaction again when the database gave it up as a deadlock's victim.
 * @throws whatever the last attempt threw
 */
export async function retryDeadlock<Result>(run: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await run()
    } catch (error) {
      if (attempt === attempts || !isRepeatable(error)) throw error
    }
  }
}

function isRepeatable(error: unknown): boolean {
  return (
    typeof error === 'object' && error !== null && 'code' in error && repeatable.has(error.code)
  )
}
