import { generateKeyPairSync, randomBytes, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import {
  formatJoinToken,
  isKeyProved,
  joinPath,
  type JoinAnswer,
  type JoinRequest,
} from '../../shared/replication/enrolment.ts'
import { createCa, issueEdgeCertificate, type PemPair } from '../../shared/trust/pki.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { fingerprintOf, type TrustedKey, type TrustList } from '../../shared/trust/trust-list.ts'

/** A root: the key that a join token names. */
export interface TestRoot {
  readonly trusted: TrustedKey
  readonly privateKey: KeyObject
}

/** What is answered instead of the right thing; `silence` never ends. */
export type OtherAnswer =
  | 'silence'
  | {
      readonly status?: number
      readonly headers?: Readonly<Record<string, string>>
      readonly body?: unknown
    }

/** What a primary does for edges that join, and nothing else of it. */
export interface JoinServer {
  readonly url: URL
  /** The requests to join, as they came. */
  readonly requests: readonly JoinRequest[]
  /** The headers of all other requests, by path. */
  readonly others: readonly {
    readonly path: string
    readonly headers: IncomingMessage['headers']
  }[]
  readonly root: TestRoot
  readonly ca: PemPair
  /** Every secret that it gave out. */
  readonly secrets: readonly string[]
  /** Makes a join token. */
  createToken(): string
  /** What it would answer is given to this first; undefined lets it pass. */
  alter(change: ((answer: JoinAnswer) => OtherAnswer) | undefined): void
}

/** Makes a root. */
export function createTestRoot(id = 'root'): TestRoot {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { trusted: { id, jwk: publicKey.export({ format: 'jwk' }) }, privateKey }
}

/** A list of trusted keys, as the root signs it. */
export function signTrustList(
  { trusted, privateKey }: TestRoot,
  ca: readonly string[],
  said: Partial<TrustList> = {},
): Envelope {
  const base: TrustList = { version: 1, issuer: 'test', epoch: 1, root: trusted, log: [], ca }
  const list = { ...base, ...said }
  return signStatement(statementTypes.trust, list, { kid: trusted.id, privateKey })
}

/** Starts a primary that edges can join; it ends with the test. */
export async function startJoinServer(
  t: Pick<TestContext, 'after'>,
  { tls }: { readonly tls?: PemPair } = {},
): Promise<JoinServer> {
  const root = createTestRoot()
  const ca = await createCa('Test edges', new Date())
  const requests: JoinRequest[] = []
  const others: { path: string; headers: IncomingMessage['headers'] }[] = []
  const secrets: string[] = []
  /** By the token's `id.secret`: whose key it let in. */
  const tokens = new Map<string, { publicKey: string; answer: JoinAnswer } | undefined>()
  let change: ((answer: JoinAnswer) => OtherAnswer) | undefined

  function answerTo(request: JoinRequest): OtherAnswer {
    const { token, name, publicKey, proof } = request
    const known = tokens.get(token)
    if (!tokens.has(token) || (known !== undefined && known.publicKey !== publicKey))
      return refuse(401, 'UNAUTHORIZED', `the token ${token} is unknown or was used`)
    const [tokenId = ''] = token.split('.')
    if (!isKeyProved({ tokenId, name, publicKey }, proof))
      return refuse(400, 'BAD_REQUEST', 'the key is not proved')
    const answer = known?.answer ?? enrol(name, publicKey)
    tokens.set(token, { publicKey, answer })
    return change?.(answer) ?? { status: 201, body: answer }
  }

  function enrol(name: string, publicKey: string): JoinAnswer {
    const id = `edge-${tokens.size}`
    const secret = randomBytes(32).toString('base64url')
    secrets.push(secret)
    return {
      edge: { id, name, site: 'site-1', region: 'region-1', labels: { tier: 'test' } },
      secret,
      certificate: issueEdgeCertificate(ca, { edgeId: id, publicKey, now: new Date() }),
      ca: ca.cert,
      root: root.trusted,
      trust: signTrustList(root, [ca.cert]),
    }
  }

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request)
    const path = request.url ?? ''
    if (path !== joinPath || request.method !== 'POST') {
      others.push({ path, headers: request.headers })
      send(response, refuse(404, 'NOT_FOUND', 'there is nothing'))
      return
    }
    const asked = JSON.parse(body) as JoinRequest
    requests.push(asked)
    const answer = answerTo(asked)
    if (answer !== 'silence') send(response, answer)
  }

  const listener = (request: IncomingMessage, response: ServerResponse) => {
    respond(request, response).catch((error: unknown) => response.destroy(error as Error))
  }
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    url: new URL(tls === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`),
    requests,
    others,
    root,
    ca,
    secrets,
    createToken() {
      const id = randomBytes(8).toString('hex')
      const secret = randomBytes(32).toString('base64url')
      tokens.set(`${id}.${secret}`, undefined)
      return formatJoinToken({ id, secret, fingerprint: fingerprintOf(root.trusted.jwk) })
    },
    alter(next) {
      change = next
    },
  }
}

function refuse(status: number, code: string, message: string) {
  return { status, body: { errors: [{ code, message }] } }
}

function send(
  response: ServerResponse,
  { status = 201, headers = {}, body }: Exclude<OtherAnswer, 'silence'>,
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(typeof body === 'string' ? body : JSON.stringify(body ?? {}))
}
