/** What a Basic `Authorization` header carries. [RFC 7617 §2] */
export interface BasicCredentials {
  readonly username: string
  readonly password: string
}

/** Longer headers are not read: no name and password of ours needs them. */
const maxLength = 4096

/**
 * Reads a Basic `Authorization` header.
 * @returns undefined when the header is of another scheme or not well-formed
 */
export function parseBasic(header: string): BasicCredentials | undefined {
  const encoded = /^basic +([A-Za-z0-9+/_-]*={0,2})$/i.exec(header.trim())?.[1]
  if (encoded === undefined || header.length > maxLength) return undefined
  const decoded = Buffer.from(encoded, 'base64').toString('utf8')
  const colon = decoded.indexOf(':')
  if (colon < 0) return undefined
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) }
}

/** The header that sends these credentials. */
export function formatBasic({ username, password }: BasicCredentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

/** Whether nothing was given: podman sends `Basic Og==` (empty name, empty password) when it has no log-in. */
export function isAnonymous({ username, password }: BasicCredentials): boolean {
  return username === '' && password === ''
}
