import { formatBasic } from '../../shared/auth/basic.ts'
import { parseJson } from '../../shared/auth/json.ts'
import { readAccountReach, type AccountReach } from '../../shared/auth/project-set.ts'
import type { Scope } from '../../shared/auth/scope.ts'
import { formatScope } from '../../shared/auth/scope.ts'
import { OciError, parseErrors } from '../../shared/oci/errors.ts'

/** A log-in that a client sent to this edge. */
export interface RelayedLogin {
  /** `Basic …`, or undefined for nobody. */
  readonly authorization: string | undefined
  /** Repositories as the primary knows them; whatever is asked, only pull is granted. */
  readonly scopes: readonly Scope[]
  readonly address: string
  readonly requestId: string
}

/** What the primary answered. */
export interface IssuedToken {
  readonly token: string
  readonly expiresIn: number
  readonly issuedAt: string
  /** Of the account, where one logged in. */
  readonly reach?: AccountReach | undefined
}

export interface TokenRelay {
  /**
   * Asks the primary for a token for this edge in the client's name.
   * @throws OciError UNAUTHORIZED, DENIED, TOOMANYREQUESTS as the primary says, UNAVAILABLE when it cannot be asked
   */
  logIn(login: RelayedLogin): Promise<IssuedToken>
}

/** An answer of the primary's API. */
export interface PrimaryAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: string
}

/** A GET at the primary; throws when there is no answer. */
export type AskPrimary = (
  path: string,
  headers: Readonly<Record<string, string>>,
) => Promise<PrimaryAnswer>

export interface TokenRelayDeps {
  readonly ask: AskPrimary
  /** This edge's own credential: it makes the primary sign for this edge and nobody else. */
  readonly edge: { readonly id: string; readonly secret: string } | undefined
}

/** Relays log-ins: the client's password passes through, and is neither kept nor logged. */
export function createTokenRelay({ ask, edge }: TokenRelayDeps): TokenRelay {
  return {
    async logIn({ authorization, scopes, address, requestId }) {
      if (edge === undefined) {
        throw new OciError(
          'UNAVAILABLE',
          "this edge is not known to its primary: run 'outport edge join', or give it edge.id and edge.credential_file",
        )
      }
      const query = new URLSearchParams({ service: 'outport' })
      for (const scope of scopes)
        query.append('scope', formatScope({ ...scope, actions: ['pull'] }))
      const answer = await askOrRefuse(ask, `/service/token?${query.toString()}`, {
        'Outport-Edge-Authorization': formatBasic({ username: edge.id, password: edge.secret }),
        'Outport-Client-Address': address,
        'X-Request-Id': requestId,
        ...(authorization !== undefined && { Authorization: authorization }),
      })
      if (answer.status !== 200) throw refusalOf(answer)
      return readToken(answer.body)
    },
  }
}

async function askOrRefuse(
  ask: AskPrimary,
  path: string,
  headers: Readonly<Record<string, string>>,
): Promise<PrimaryAnswer> {
  try {
    return await ask(path, headers)
  } catch (cause) {
    throw unavailable('the primary cannot be reached to check this login: try again later', cause)
  }
}

function refusalOf({ status, headers, body }: PrimaryAnswer): OciError {
  const message = parseErrors(body)[0]?.message
  switch (status) {
    case 401:
      return new OciError(
        'UNAUTHORIZED',
        message ?? 'the primary does not take this name and password',
      )
    case 403:
      return new OciError('DENIED', message ?? 'the primary refuses this login at this edge')
    case 429:
      return new OciError('TOOMANYREQUESTS', message ?? 'too many log-ins: wait', {
        headers: { 'Retry-After': headers['retry-after'] ?? '5' },
      })
    default:
      return unavailable(`the primary answered ${status} to a login: try again later`)
  }
}

function readToken(body: string): IssuedToken {
  // Whatever stands between may answer 200 with a page of its own.
  const parsed = parseJson(body)
  if (
    typeof parsed === 'object' &&
    parsed !== null &&
    'token' in parsed &&
    'expires_in' in parsed &&
    'issued_at' in parsed
  ) {
    const { token, expires_in, issued_at } = parsed
    if (
      typeof token === 'string' &&
      typeof expires_in === 'number' &&
      typeof issued_at === 'string'
    ) {
      const reach = readAccountReach('reach' in parsed ? parsed.reach : undefined)
      return { token, expiresIn: expires_in, issuedAt: issued_at, reach }
    }
  }
  throw unavailable("the primary's token answer is not of the form that this edge knows")
}

function unavailable(message: string, cause?: unknown): OciError {
  return new OciError('UNAVAILABLE', message, { headers: { 'Retry-After': '5' }, cause })
}
