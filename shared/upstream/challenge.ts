/** What a 401 asks for. [RFC 9110 §11.6.1; distribution, spec/auth/token.md] */
export interface Challenge {
  /** Lower case: `bearer`, `basic`. */
  readonly scheme: string
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>
}

const schemeAt = /[ \t,]*([!#$%&'*+.^_`|~\w-]+)(?=[ \t]|,|$)(?![ \t]*=)/y
const parameterAt = /[ \t,]*([!#$%&'*+.^_`|~\w-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))/y

/** Reads a `WWW-Authenticate` header: several challenges, quoted or bare parameters, any case. What is not of the grammar ends it. */
export function parseChallenges(header: string): readonly Challenge[] {
  const challenges: Challenge[] = []
  let at = 0
  while (at < header.length) {
    schemeAt.lastIndex = at
    const scheme = schemeAt.exec(header)?.[1]
    if (scheme === undefined) break
    at = schemeAt.lastIndex
    const parameters = new Map<string, string>()
    for (;;) {
      parameterAt.lastIndex = at
      const [whole, name, quoted, bare] = parameterAt.exec(header) ?? []
      if (whole === undefined || name === undefined) break
      parameters.set(name.toLowerCase(), quoted?.replace(/\\(.)/g, '$1') ?? bare ?? '')
      at += whole.length
    }
    challenges.push({ scheme: scheme.toLowerCase(), parameters })
  }
  return challenges
}
