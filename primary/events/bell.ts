/** Sleep that others may cut short. */
export interface Bell {
  /** Ends the sleep that is under way, or else the next one at once. */
  ring(this: void): void
  /** Resolves after so many milliseconds, or when it rings. */
  sleep(milliseconds: number): Promise<void>
}

/** For one sleeper. */
export function createBell(): Bell {
  let rung = false
  let wake: (() => void) | undefined
  return {
    ring() {
      rung = true
      wake?.()
    },
    async sleep(milliseconds) {
      if (!rung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, milliseconds)
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
      }
      rung = false
      wake = undefined
    },
  }
}
