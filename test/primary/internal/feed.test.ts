import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { before, describe, test, type TestContext } from 'node:test'
import type { OwnIdentity } from '../../../edge/replication/identity.ts'
import { LinkRefusedError, openLink } from '../../../edge/replication/link.ts'
import type { FeedRefusal, Feeds } from '../../../primary/events/feed.ts'
import { internalRoutes } from '../../../primary/internal/routes.ts'
import { ApiError } from '../../../shared/api/errors.ts'
import type { HttpServerOptions } from '../../../shared/http/server.ts'
import { feedProtocol, type FeedLine } from '../../../shared/replication/feed.ts'
import type { LeaseRequest } from '../../../shared/replication/lease.ts'
import { createCa, issueServerCertificate, type PemPair } from '../../../shared/trust/pki.ts'
import { createEdgeIdentity } from '../../kit/edge-identity.ts'
import { waitFor } from '../../kit/clock.ts'
import { connectRaw, createRecordingLog, startHttpServer } from '../../kit/http-server.ts'
import { createLeaseRequest } from '../../kit/follow-server.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'

// What an edge and a primary's internal listener say to each other: the log is a line or two of a stand-in.

let ca: PemPair
let own: PemPair
let identity: OwnIdentity

before(async () => {
  const now = new Date()
  ca = await createCa('Edges', now)
  own = await issueServerCertificate(ca, {
    names: { dnsNames: ['localhost'], ipAddresses: ['127.0.0.1'] },
    now,
  })
  identity = createEdgeIdentity(ca, { edgeId: 'one', now })
})

const clientTls = () => ({ key: identity.key, cert: identity.certificate, ca: ca.cert })

async function start(t: TestContext, options: Partial<HttpServerOptions> = {}) {
  const { log } = createRecordingLog()
  const granted: LeaseRequest[] = []
  let refusal: FeedRefusal | undefined
  let mayRead = true
  let isBusy = false
  let say: (line: FeedLine) => void = () => undefined
  const feeds: Pick<Feeds, 'open'> = {
    open(_request, { stream, begin }) {
      if (refusal !== undefined) return Promise.resolve(refusal)
      begin()
      say = (line) => void stream.write(`${JSON.stringify(line)}\n`)
      say({ alive: true })
      return Promise.resolve(undefined)
    },
  }
  const served = await startHttpServer(t, {
    mutual: true,
    upgrades: true,
    ...options,
    routes: (app) =>
      internalRoutes(app, {
        findEdge: (edgeId) => Promise.resolve(mayRead ? createRosterEdge({ edgeId }) : undefined),
        feeds: feeds as Feeds,
        leases: {
          grant: (_edge, request) => {
            if (isBusy) return Promise.reject(new ApiError('UNAVAILABLE', 'not now'))
            granted.push(request)
            return Promise.resolve({ payloadType: request.nonce, payload: '', signatures: [] })
          },
          close: () => Promise.resolve(),
        },
        snapshots: { open: () => Promise.reject(new Error('there are none')) },
        takeReport: () => Promise.reject(new Error('there are none')),
        isHeld: () => false,
        log,
      }),
  })
  served.server.setMutual({ ...own, ca: [ca.cert] })
  const link = openLink({
    url: served.url,
    identity,
    instance: 'i',
    chooseProxy: () => undefined,
    connectTimeoutMs: 1000,
    feedAnswerMs: 60_000,
  })
  t.after(() => link.close())
  return {
    ...served,
    granted,
    link,
    say: (line: FeedLine) => say(line),
    refuse: (reason: FeedRefusal) => (refusal = reason),
    revoke: () => (mayRead = false),
    beBusy: () => (isBusy = true),
  }
}

/** Follows the feed in the background. */
async function follow(t: TestContext, { link }: Pick<Awaited<ReturnType<typeof start>>, 'link'>) {
  const feed = await link.feed({ epoch: 1, seq: 0 }, t.signal)
  t.after(() => feed.cancel())
  const lines: FeedLine[] = []
  const ended = (async () => {
    for await (const line of feed.lines()) lines.push(line)
  })().catch(() => undefined)
  await waitFor('the first line', () => lines.length > 0)
  return { lines, ended }
}

/** A request of an edge that is too old to ask for another protocol, or asks as a test wants. */
async function askByHand(
  { url }: { readonly url: URL },
  path: string,
  { method = 'GET', headers = {}, body = '' } = {},
) {
  const sent = httpsRequest(new URL(path, url), { method, headers, ...clientTls() })
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  response.setEncoding('utf8')
  return { response, body: async () => (await response.toArray()).join('') }
}

const accessLines = ({ lines }: { readonly lines: readonly { readonly msg: string }[] }) =>
  lines.filter(({ msg }) => msg === 'request') as unknown as readonly {
    readonly route: string
    readonly status: number
    readonly cut?: string
  }[]

describe('a feed in both directions', () => {
  test('brings the log and leases over one connection', async (t) => {
    const primary = await start(t)
    const { lines } = await follow(t, primary)
    for (const letter of ['A', 'B'])
      assert.deepEqual(await primary.link.lease(createLeaseRequest(letter)), {
        payloadType: letter.repeat(22),
        payload: '',
        signatures: [],
      })
    primary.say({ seq: 1, stream: 'system', bodyHash: '' })
    await waitFor('the event', () => lines.length === 2)
    assert.deepEqual(primary.granted, [createLeaseRequest('A'), createLeaseRequest('B')])
    assert.deepEqual(accessLines(primary), [], 'no other request was sent')
  })

  test('gives no lease to an edge that may not read any more, nor while none may be given', async (t) => {
    const primary = await start(t)
    await follow(t, primary)
    primary.beBusy()
    await assert.rejects(primary.link.lease(createLeaseRequest('A')), /answers 503: not now/)
    primary.revoke()
    await assert.rejects(
      primary.link.lease(createLeaseRequest('B')),
      (error) => error instanceof LinkRefusedError && error.status === 403,
    )
    assert.deepEqual(primary.granted, [])
  })

  test('ends with what is no request for a lease; what a newer edge says besides is passed by', async (t) => {
    const primary = await start(t)
    const connection = await connectRaw(t, primary.port, clientTls())
    connection.send(
      `GET /feed?epoch=1&seq=0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: ${feedProtocol}\r\n\r\n{"advice":1}\n`,
    )
    assert.match(await connection.until(/alive/), /^HTTP\/1\.1 101 /)
    connection.send(`${JSON.stringify({ lease: createLeaseRequest('A') })}\n`)
    await connection.until(/granted/)
    connection.send('{"lease":{"nonce":"short"}}\n')
    await connection.closed()
    assert.equal(primary.granted.length, 1)
    const [line] = await waitFor('the access log', () => {
      const found = accessLines(primary)
      return found.length === 1 && found
    })
    assert.deepEqual({ ...line }, { ...line, route: '/feed', status: 101 })
  })

  test('is not cut for being idle, and ends when the server does', async (t) => {
    const timeouts = { idle: 100, minimum_rate: 100, minimum_rate_window: 100 }
    const primary = await start(t, { timeouts })
    const { ended } = await follow(t, primary)
    const connection = await connectRaw(t, primary.port, clientTls())
    connection.send('POST /lease HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{')
    await connection.closed()
    await waitFor('another one to be cut', () => accessLines(primary).some(({ cut }) => cut))
    assert.ok(await primary.link.lease(createLeaseRequest('A')), 'the feed is not')
    await primary.server.drain(0)
    await ended
  })

  test('that is refused says why, by an answer like any other', async (t) => {
    const primary = await start(t)
    primary.refuse('behind')
    await assert.rejects(
      primary.link.feed({ epoch: 1, seq: 0 }, t.signal),
      (error) => error instanceof LinkRefusedError && error.status === 409,
    )
    primary.revoke()
    await assert.rejects(
      primary.link.feed({ epoch: 1, seq: 0 }, t.signal),
      (error) => error instanceof LinkRefusedError && error.status === 403,
    )
  })
})

test('an older edge gets the feed alone, and its leases by requests', async (t) => {
  const primary = await start(t)
  for (const headers of [{}, { Connection: 'Upgrade', Upgrade: 'h2c' }]) {
    const { response } = await askByHand(primary, '/feed?epoch=1&seq=0', { headers })
    assert.equal(response.statusCode, 200)
    assert.equal(response.headers['content-type'], 'application/x-ndjson')
    const [line] = (await once(response, 'data')) as [string]
    assert.equal(line, '{"alive":true}\n')
    response.destroy()
  }
  const lease = await askByHand(primary, '/lease', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(createLeaseRequest('A')),
  })
  assert.equal(lease.response.statusCode, 200)
  assert.match(await lease.body(), /"payloadType":"A+"/)
})
