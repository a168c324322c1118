/** The primary says what this version does not know, and may not pass by. */
export class NewerVersionError extends Error {
  override readonly name = 'NewerVersionError'

  /** @param what it was: `event 12 of the log is a "quarantine"` */
  constructor(what: string) {
    super(`this edge needs a newer version: ${what}, which it does not know`)
  }
}
