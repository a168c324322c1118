/** The codes of the distribution spec, and the legacy ones that clients know. [distribution-spec, Error Codes] */
export type OciErrorCode = keyof typeof statusOf

const statusOf = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 400,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  SIZE_INVALID: 400,
  TAG_INVALID: 400,
  RANGE_INVALID: 416,
  PAGINATION_NUMBER_INVALID: 400,
  UNAUTHORIZED: 401,
  DENIED: 403,
  UNSUPPORTED: 405,
  TOOMANYREQUESTS: 429,
  UNAVAILABLE: 503,
  UNKNOWN: 500,
} as const

/** One element of the error body. `detail` is whatever helps; never a secret. */
export interface OciErrorEntry {
  readonly code: string
  readonly message: string
  readonly detail?: unknown
}

export interface OciErrorOptions {
  /** Overrides the code's usual status, e.g. 413 for SIZE_INVALID. */
  readonly status?: number
  readonly detail?: unknown
  /** Further elements of the body: one per missing blob of a manifest. */
  readonly more?: readonly OciErrorEntry[]
  /** Response headers that belong to the refusal: `WWW-Authenticate`, `Range`, `Retry-After`. */
  readonly headers?: Readonly<Record<string, string>>
  readonly cause?: unknown
}

/** A refusal: safe to show, and its message says what to do. Everything else thrown is a fault (500). */
export class OciError extends Error {
  readonly code: OciErrorCode
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly entries: readonly OciErrorEntry[]

  constructor(code: OciErrorCode, message: string, options: OciErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'OciError'
    this.code = code
    this.status = options.status ?? statusOf[code]
    this.headers = options.headers ?? {}
    const first: OciErrorEntry =
      options.detail === undefined ? { code, message } : { code, message, detail: options.detail }
    this.entries = [first, ...(options.more ?? [])]
  }
}

/** The JSON body of a refusal. */
export function formatErrors(entries: readonly OciErrorEntry[]): string {
  return JSON.stringify({ errors: entries })
}

/**
 * Reads a far registry's error body.
 * @returns its entries, or an empty list when the body is not of the spec's form
 */
export function parseErrors(body: string): readonly OciErrorEntry[] {
  try {
    const parsed: unknown = JSON.parse(body)
    if (typeof parsed !== 'object' || parsed === null || !('errors' in parsed)) return []
    if (!Array.isArray(parsed.errors)) return []
    return parsed.errors.flatMap((entry: unknown) => {
      if (typeof entry !== 'object' || entry === null || !('code' in entry)) return []
      if (typeof entry.code !== 'string') return []
      const message = 'message' in entry && typeof entry.message === 'string' ? entry.message : ''
      return [{ code: entry.code, message }]
    })
  } catch {
    return []
  }
}
