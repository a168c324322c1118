/** Whether a promise is not settled after so many milliseconds. What it throws is left to whoever awaits it. */
export async function lasts(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>()
  const timer = setTimeout(() => late.resolve(true), ms)
  const settle = (): void => late.resolve(false)
  promise.then(settle, settle)
  try {
    return await late.promise
  } finally {
    clearTimeout(timer)
  }
}
