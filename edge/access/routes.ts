import type { FastifyInstance, FastifyRequest } from 'fastify'
import { parseScopes, type Scope } from '../../shared/auth/scope.ts'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { recordOf } from '../../shared/http/request-record.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { isRepositoryName } from '../../shared/oci/reference.ts'
import type { Registries } from '../../shared/upstream/registries.ts'
import { splitRepositoryPrefix } from '../upstreams/target.ts'
import { noLogins } from './challenge.ts'
import type { TokenRelay } from './token-relay.ts'

export interface TokenRoutesDeps {
  readonly relay: TokenRelay
  readonly registries: Registries
  /** Whether passwords may be sent to this listener. */
  readonly takesLogins: boolean
}

const formMaxBytes = 64 * 1024

/**
 * The edge's token service: GET as distribution's clients use it, POST as containerd and helm try it first.
 * [distribution, docs/spec/auth/token and oauth]
 */
export function tokenRoutes(
  app: FastifyInstance,
  { relay, registries, takesLogins }: TokenRoutesDeps,
): void {
  const issue = async (
    request: FastifyRequest,
    authorization: string | undefined,
    scopes: readonly string[],
  ) => {
    if (authorization !== undefined && !takesLogins) throw noLogins()
    const { token, expiresIn, issuedAt } = await relay.logIn({
      authorization,
      scopes: scopesAtPrimary(parseScopes(scopes), registries),
      address: clientAddressOf(request.raw),
      requestId: recordOf(request.raw).id,
    })
    return { token, access_token: token, expires_in: expiresIn, issued_at: issuedAt }
  }

  // What a token opens is the primary's decision.
  const open = { config: { permission: { of: 'anybody' } } }
  app.get('/service/token', open, async (request, reply) => {
    recordOf(request.raw).route = 'token'
    const query = new URLSearchParams((request.raw.url ?? '').split('?', 2)[1] ?? '')
    const answer = await issue(
      request,
      basicOf(request.headers.authorization),
      query.getAll('scope'),
    )
    return reply.header('Cache-Control', 'no-store').send(answer)
  })

  app.post('/service/token', open, async (request, reply) => {
    recordOf(request.raw).route = 'token'
    const form = await readForm(request)
    const answer = await issue(request, passwordOf(form), form.getAll('scope'))
    return reply
      .header('Cache-Control', 'no-store')
      .send({ ...answer, scope: form.getAll('scope').join(' ') })
  })
}

/** Only Basic is a log-in; `Basic Og==` (nobody, without a password) is what some clients send for none. */
function basicOf(authorization: string | undefined): string | undefined {
  if (authorization === undefined || !/^basic +\S+$/i.test(authorization)) return undefined
  const credential = authorization.replace(/^basic +/i, '')
  return credential === 'Og==' ? undefined : `Basic ${credential}`
}

function passwordOf(form: URLSearchParams): string {
  if (form.get('grant_type') !== 'password') {
    throw new OciError(
      'UNSUPPORTED',
      'an edge takes grant_type=password only: refresh tokens stay with the primary',
      { status: 400 },
    )
  }
  const [username, password] = [form.get('username') ?? '', form.get('password') ?? '']
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

/**
 * Scopes as the primary knows them. A client that rewrites paths asks for `primary/library/app`; what belongs
 * to another upstream is none of the primary's business.
 */
function scopesAtPrimary(scopes: readonly Scope[], registries: Registries): readonly Scope[] {
  return scopes.flatMap((scope) => {
    if (scope.type !== 'repository' || !isRepositoryName(scope.name)) return []
    const split = splitRepositoryPrefix(scope.name, registries)
    if (split === undefined) return [scope]
    return split.upstream.kind === 'primary' ? [{ ...scope, name: split.repository }] : []
  })
}

async function readForm(request: FastifyRequest): Promise<URLSearchParams> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request.raw as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > formMaxBytes)
      throw new OciError('SIZE_INVALID', 'a token request is a small form', { status: 413 })
    chunks.push(chunk)
  }
  return new URLSearchParams(Buffer.concat(chunks).toString('utf8'))
}
