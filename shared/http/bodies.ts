import type { FastifyInstance } from 'fastify'
import { ApiError } from '../api/errors.ts'

/**
 * Has the routes of this scope take JSON bodies, parsed, up to `maxBytes`. A server's routes get their bodies as
 * unread streams otherwise, as the registry API needs them. An empty body is `undefined`; a request without a
 * `Content-Type` is read as JSON too.
 */
export function acceptJson(
  scope: FastifyInstance,
  { maxBytes }: { readonly maxBytes: number },
): void {
  const parseJson = scope.getDefaultJsonParser('error', 'error')
  scope.removeContentTypeParser('*')
  for (const type of ['application/json', '*']) {
    scope.addContentTypeParser<string>(
      type,
      { parseAs: 'string', bodyLimit: maxBytes },
      (request, body, done) => {
        if (body.trim() === '') {
          done(null, undefined)
          return
        }
        if (type === '*' && request.headers['content-type'] !== undefined) {
          done(new ApiError('UNSUPPORTED_MEDIA_TYPE', 'send the body as application/json'))
          return
        }
        void parseJson(request, body, (error, value) => {
          if (error === null) done(null, value)
          else
            done(
              new ApiError('BAD_REQUEST', `the body is not JSON: ${error.message}`, {
                cause: error,
              }),
            )
        })
      },
    )
  }
}

/** Has the routes of this scope take HTML forms (`application/x-www-form-urlencoded`) as URLSearchParams. */
export function acceptForms(
  scope: FastifyInstance,
  { maxBytes }: { readonly maxBytes: number },
): void {
  scope.addContentTypeParser<string>(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: maxBytes },
    (_request, body, done) => {
      done(null, new URLSearchParams(body))
    },
  )
}
