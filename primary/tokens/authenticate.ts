import { parseBasic, isAnonymous } from '../../shared/auth/basic.ts'
import type { Scope } from '../../shared/auth/scope.ts'
import type { TokenVerifier } from '../../shared/auth/token.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { parseSubject } from '../accounts/account.ts'
import type { Caller } from '../accounts/caller.ts'
import { challengeOf } from './grant.ts'
import type { LogIns } from '../accounts/log-ins.ts'

export interface AuthenticateDeps {
  readonly logIns: LogIns
  /** For tokens whose audience is the primaries: one that an edge saw is refused. */
  readonly verifier: TokenVerifier
  readonly externalUrl: string
  readonly service: string
}

export interface CredentialRequest {
  /** The `Authorization` header. */
  readonly authorization?: string | undefined
  /** The client's address, for the limit on log-ins. */
  readonly address: string
  /** What it came over. */
  readonly connection?: object
  /** What the request needs: a client whose token is refused asks for these again. */
  readonly scopes?: readonly Scope[]
}

/**
 * Says who sent a request: Basic (a person, a robot, an edge), a Bearer token of ours, or nobody.
 * @throws OciError UNAUTHORIZED with the challenge for a credential that is wrong or of another kind;
 *   TOOMANYREQUESTS after too many failed log-ins
 */
export type Authenticate = (request: CredentialRequest) => Promise<Caller>

const anonymous: Caller = { kind: 'anonymous', access: undefined }

/** Makes the one place that reads credentials of the distribution API. */
export function createAuthenticate(deps: AuthenticateDeps): Authenticate {
  const { logIns, verifier, externalUrl, service } = deps

  const refused = (
    message: string,
    { scopes }: CredentialRequest,
    error?: 'invalid_token',
  ): OciError =>
    new OciError('UNAUTHORIZED', message, {
      headers: {
        'WWW-Authenticate': challengeOf({
          externalUrl,
          service,
          ...(scopes === undefined ? {} : { scopes }),
          ...(error === undefined ? {} : { error }),
        }),
      },
    })

  async function byBearer(token: string, request: CredentialRequest): Promise<Caller> {
    const claims = await verifier.verify(token, request.connection)
    const caller =
      claims === undefined
        ? undefined
        : parseSubject(claims.subject, { name: claims.name, access: claims.access })
    if (caller !== undefined) return caller
    const message = 'the token has expired or is not valid here: ask the realm for a new one'
    throw refused(message, request, 'invalid_token')
  }

  async function byBasic(header: string, request: CredentialRequest): Promise<Caller> {
    const credentials = parseBasic(header)
    if (credentials === undefined)
      throw refused('the Basic credentials are not well-formed', request)
    if (isAnonymous(credentials)) return anonymous
    const { address } = request
    const account = await logIns.logInAgain(credentials, { address })
    if (account === undefined) throw refused('wrong user name or password', request)
    return account.caller
  }

  return async (request) => {
    const header = request.authorization?.trim() ?? ''
    if (header === '') return anonymous
    const [, scheme = '', rest = ''] = /^(\S+)\s*(.*)$/s.exec(header) ?? []
    if (/^bearer$/i.test(scheme)) return byBearer(rest, request)
    if (/^basic$/i.test(scheme)) return byBasic(header, request)
    throw refused('log in by Bearer or Basic credentials', request)
  }
}
