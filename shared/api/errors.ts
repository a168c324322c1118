import type { OciErrorEntry } from '../oci/errors.ts'

/** The codes of Harbor's API errors, and the status that each answers with. [harbor src/lib/errors, src/lib/http/error.go] */
export type ApiErrorCode = keyof typeof statusOf

const statusOf = {
  BAD_REQUEST: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  CONFLICT: 409,
  PRECONDITION: 412,
  PROJECTPOLICYVIOLATION: 412,
  REQUEST_ENTITY_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  UNPROCESSABLE_ENTITY: 422,
  TOO_MANY_REQUEST: 429,
  UNAVAILABLE: 503,
} as const

export interface ApiErrorOptions {
  readonly headers?: Readonly<Record<string, string>>
  readonly cause?: unknown
}

/** A refusal of the admin API: safe to show, its message says what to do. */
export class ApiError extends Error {
  readonly code: ApiErrorCode
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly entries: readonly OciErrorEntry[]

  constructor(code: ApiErrorCode, message: string, options: ApiErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'ApiError'
    this.code = code
    this.status = statusOf[code]
    this.headers = options.headers ?? {}
    this.entries = [{ code, message }]
  }
}
