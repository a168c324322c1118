import { OciError } from '../../shared/oci/errors.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'

/** Where clients of a listener get their tokens. */
export interface Realm {
  /** An absolute URL, from configuration: never from a `Host` header. */
  readonly url: string
  /** What tokens of this edge are for. */
  readonly service: string
}

/** Why a credential was not enough, in the challenge's words. [RFC 6750 §3.1] */
export type ChallengeError = 'invalid_token' | 'insufficient_scope'

/**
 * The 401 that makes a client fetch a token: exactly one challenge, since docker and podman misread two.
 * `error` is what makes containerd drop a token that has expired.
 */
export function unauthorized(
  realm: Realm,
  {
    repository,
    error,
  }: {
    readonly repository?: RepositoryName | undefined
    readonly error?: ChallengeError | undefined
  } = {},
): OciError {
  const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`
  const reason = error === undefined ? '' : `,error="${error}"`
  return new OciError('UNAUTHORIZED', messageOf(error), {
    headers: {
      'WWW-Authenticate': `Bearer realm="${realm.url}",service="${realm.service}"${scope}${reason}`,
    },
  })
}

/** What a listener says to a password that crossed a network in clear: it serves public content only. */
export function noLogins(): OciError {
  return new OciError(
    'DENIED',
    'this listener takes no passwords over plain http: use https, or set insecure_http: all on the listener',
  )
}

function messageOf(error: ChallengeError | undefined): string {
  switch (error) {
    case undefined:
      return 'log in first: this edge takes the names and passwords of its primary'
    case 'invalid_token':
      return 'the token has expired or is not for this edge: fetch a new one'
    case 'insufficient_scope':
      return 'this login may not pull from that repository, or there is no such repository'
  }
}
