/** Reads JSON that a stranger wrote. @returns undefined for what is none */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
