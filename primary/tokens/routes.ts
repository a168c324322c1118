import { isIP } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { isAnonymous, parseBasic, type BasicCredentials } from '../../shared/auth/basic.ts'
import { formatScope, parseScopes } from '../../shared/auth/scope.ts'
import type { PublicKeys } from '../../shared/auth/token.ts'
import { acceptForms } from '../../shared/http/bodies.ts'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { Account } from '../accounts/account.ts'
import type { Issue, IssuedToken, RelayingEdge } from './issue.ts'
import type { LogInOrigin } from '../../shared/auth/log-in-limit.ts'
import type { LogIns } from '../accounts/log-ins.ts'
import type { Trust } from '../store/trust.ts'
import type { Refresh } from './refresh.ts'

export interface TokenRouteDeps {
  readonly issue: Issue
  readonly refresh: Refresh
  readonly logIns: LogIns
  /** The public keys as they are now. */
  readonly keys: () => PublicKeys
  /** The root, and what it says of the keys that sign the log, as they are now. */
  readonly trust: () => Trust
  /** Where edges come for events. */
  readonly internalUrl: () => string
}

/** The longest form: 32 scopes and a password are far shorter. */
const maxFormBytes = 64 * 1024

/** The token endpoint, as distribution's clients use it, and the keys by which its tokens are verified. */
export function tokenRoutes(app: FastifyInstance, deps: TokenRouteDeps): void {
  void app.register((scope, _options, done) => {
    acceptForms(scope, { maxBytes: maxFormBytes })
    // Whoever asks gets what the records allow them, which may be nothing.
    const token = { config: { permission: { of: 'anybody' } } }
    const open = { config: { permission: { of: 'nobody' } } }
    scope.get('/service/token', token, async (request, reply) => {
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify(await answerGet(request, deps)))
    })
    scope.post('/service/token', token, async (request, reply) => {
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify(await answerPost(request, deps)))
    })
    scope.get('/service/jwks', open, async (_request, reply) => {
      return reply
        .header('Cache-Control', 'public, max-age=60')
        .type('application/json')
        .send(JSON.stringify(deps.keys()))
    })
    scope.get('/service/trust', open, async (_request, reply) => {
      const { root, envelope, rotations } = deps.trust()
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify({ root, list: envelope, rotations, internal_url: deps.internalUrl() }))
    })
    done()
  })
}

/** GET: credentials by Basic, or none. [distribution, docs/spec/auth/token] */
async function answerGet(request: FastifyRequest, deps: TokenRouteDeps): Promise<object> {
  const url = request.raw.url ?? ''
  const query = new URLSearchParams(url.includes('?') ? url.slice(url.indexOf('?') + 1) : '')
  const edge = await relayingEdge(request, deps)
  const credentials = readBasic(request.headers.authorization)
  const account =
    credentials === undefined ? undefined : await logIn(credentials, { request, deps, edge })
  const scopes = parseScopes(query.getAll('scope'))
  return {
    ...formatToken(await deps.issue.issue({ account, scopes, edge })),
    // An edge keeps serving whom it saw logged in when it is cut off.
    ...(edge !== undefined &&
      account !== undefined && { reach: await deps.issue.reachOf(account) }),
  }
}

/**
 * POST: OAuth 2 with `password` or `refresh_token`. containerd tries this first and falls back to GET on
 * 400, 401, 404 and 405. [distribution, docs/spec/auth/oauth]
 */
async function answerPost(request: FastifyRequest, deps: TokenRouteDeps): Promise<object> {
  const form = request.body
  if (!(form instanceof URLSearchParams)) {
    throw badRequest('send the form as application/x-www-form-urlencoded')
  }
  const edge = await relayingEdge(request, deps)
  const scopes = parseScopes(form.getAll('scope'))
  const account = await redeemGrant(form, { request, deps, edge })
  const issued = await deps.issue.issue({ account, scopes, edge })
  const offline = form.get('access_type') === 'offline'
  return {
    ...formatToken(issued),
    scope: issued.claims.access.map(formatScope).join(' '),
    // Never through an edge, which would see it. A client that sent one keeps it.
    ...(offline && edge === undefined ? { refresh_token: await deps.refresh.issue(account) } : {}),
  }
}

interface LogInContext {
  readonly request: FastifyRequest
  readonly deps: TokenRouteDeps
  readonly edge: RelayingEdge | undefined
}

async function redeemGrant(form: URLSearchParams, context: LogInContext): Promise<Account> {
  switch (form.get('grant_type')) {
    case 'password':
      return logIn(
        { username: form.get('username') ?? '', password: form.get('password') ?? '' },
        context,
      )
    case 'refresh_token': {
      if (context.edge !== undefined) {
        throw badRequest('refresh tokens are not taken through an edge: log in with the secret')
      }
      const { refresh, logIns } = context.deps
      const { name, account } = await refresh.redeem(form.get('refresh_token') ?? '')
      if (account !== undefined) return account
      await logIns.noteRefusal({
        username: name,
        isKnown: true,
        origin: originOf(context.request, undefined),
        description: 'the refresh token is not valid any more',
      })
      throw unauthorized('the refresh token is not valid any more: log in again')
    }
    default:
      throw badRequest('grant_type must be password or refresh_token')
  }
}

async function logIn(
  credentials: BasicCredentials,
  { request, deps, edge }: LogInContext,
): Promise<Account> {
  const origin = originOf(request, edge)
  await deps.issue.checkRelayed(credentials.username, { edge, origin })
  const account = await deps.logIns.logIn(credentials, origin)
  if (account !== undefined) return account
  throw unauthorized('wrong user name or password')
}

/** Through an edge it is the edge, once proved, that names the address. */
function originOf(request: FastifyRequest, edge: RelayingEdge | undefined): LogInOrigin {
  const address = clientAddressOf(request.raw)
  if (edge === undefined) return { address }
  const named = request.headers['outport-client-address']
  const isNamed = typeof named === 'string' && isIP(named) !== 0
  return { address: isNamed ? named : address, edge: edge.facts.id }
}

function relayingEdge(
  request: FastifyRequest,
  deps: TokenRouteDeps,
): Promise<RelayingEdge | undefined> {
  const header = request.headers['outport-edge-authorization']
  const text = Array.isArray(header) ? header.join(',') : header
  return deps.issue.findEdge(text, clientAddressOf(request.raw))
}

/** undefined: nobody. */
function readBasic(header: string | undefined): BasicCredentials | undefined {
  if (header === undefined || header.trim() === '') return undefined
  const credentials = parseBasic(header)
  if (credentials === undefined) {
    throw unauthorized('log in at the token endpoint by Basic credentials')
  }
  return isAnonymous(credentials) ? undefined : credentials
}

/** Both names of the token, for docker's clients and OAuth's; containerd takes a missing `expires_in` for never. */
function formatToken({ token, claims }: IssuedToken) {
  // Whole seconds: some clients take nothing else.
  const issuedAt = Math.floor(claims.issuedAt)
  return {
    token,
    access_token: token,
    expires_in: claims.expiresAt - issuedAt,
    issued_at: new Date(issuedAt * 1000).toISOString().replace('.000Z', 'Z'),
  }
}

function unauthorized(message: string): OciError {
  return new OciError('UNAUTHORIZED', message, {
    headers: { 'WWW-Authenticate': 'Basic realm="outport"' },
  })
}

function badRequest(message: string): OciError {
  return new OciError('UNSUPPORTED', message, { status: 400 })
}
