import type { HttpError } from '../http/client.ts'
import { SourceError } from '../stream/blob-source.ts'

/** Longer requests to be left alone are cut down to this: a day. */
const maxRetryAfterMs = 86_400_000

/**
 * What an upstream's refusing status means. Other 4xx than those named here are `broken` rather than absent: a
 * 400 is also what speaking http to an https port gets, and must not end a tag that is held.
 */
export function errorOfStatus(
  name: string,
  status: number,
  headers: Readonly<Record<string, string | undefined>> = {},
): SourceError {
  const message = `${name} answered ${status}`
  if (status === 404 || status === 410) return new SourceError('absent', message)
  if (status === 401 || status === 403) return new SourceError('refused', message)
  const retryAfterMs = parseRetryAfter(headers['retry-after'], Date.now())
  if (status === 429) return new SourceError('busy', message, { retryAfterMs })
  const instead = headers['outport-try']
  // An edge that gives as much as it can is not away, and asks for no pause.
  if (status === 503 && instead !== undefined)
    return new SourceError('busy', `${name} is busy`, { instead: instead.split(/[\s,]+/, 16) })
  if (status === 408 || status >= 500)
    return new SourceError('unavailable', message, { retryAfterMs, isAway: away.has(status) })
  return new SourceError('broken', message)
}

const away: ReadonlySet<number> = new Set([502, 503, 504])

/** What a failed exchange means: a body that is too large and an address that is forbidden are the far side's lies. */
export function errorOfHttp(name: string, error: HttpError): SourceError {
  const isLie = error.code === 'too-large' || error.code === 'forbidden'
  const code = isLie ? 'broken' : 'unavailable'
  // What it leads to is for the operator, who reads the log: a client might ask for more of our network's map.
  const message =
    error.code === 'forbidden'
      ? 'it leads to an address that may not be dialled from here'
      : error.message
  return new SourceError(code, `${name}: ${message}`, { isAway: !isLie, cause: error })
}

/**
 * Reads `Retry-After`: seconds or a date. [RFC 9110 §10.2.3]
 * @returns milliseconds, at most a day; undefined when it is missing or of neither form
 */
function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined
  const text = header.trim()
  const ms = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), maxRetryAfterMs)
}
