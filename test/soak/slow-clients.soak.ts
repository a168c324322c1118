import assert from 'node:assert/strict'
import { Agent, request as sendRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { bytesOf, contentOf } from '../kit/images.ts'
import { startTestUp, type TestUp } from '../kit/up.ts'

// Clients that take their time, in the times of the real world.

const repository = 'library/slow'
const kibibyte = 1024

describe('slow clients', { concurrency: true }, () => {
  let up: TestUp
  const ends: (() => unknown)[] = []
  before(async () => {
    up = await startTestUp({
      after: (end: () => unknown) => void ends.push(end),
    })
  })
  after(async () => {
    for (const end of ends) await end()
  })

  test('a push of 1 KiB a second for six minutes is taken', async (t) => {
    const blob = contentOf(bytesOf('slow push', 360 * kibibyte))
    const outgoing = open(up, 'POST', `/v2/${repository}/blobs/uploads/?digest=${blob.digest}`, {
      'Content-Type': 'application/octet-stream',
      'Content-Length': String(blob.bytes.length),
    })
    const answered = answerOf(outgoing)
    const startedAt = performance.now()
    for (let at = 0; at < blob.bytes.length; at += kibibyte) {
      outgoing.write(blob.bytes.subarray(at, at + kibibyte))
      await Promise.race([delay(1000), answered])
    }
    outgoing.end()
    const { status } = await answered
    t.diagnostic(`answered ${status} after ${seconds(startedAt)} s`)
    assert.equal(status, 201)
    const stored = await up
      .client('primary', up.admin)
      .request('GET', `/v2/${repository}/blobs/${blob.digest}`)
    assert.ok(stored.body.equals(blob.bytes))
  })

  test('a push that sends nothing for 60 s is cut, and its session goes on at its offset', async (t) => {
    const blob = contentOf(bytesOf('idle push', 256 * kibibyte))
    const sent = 100 * kibibyte
    const client = up.client('primary', up.admin)
    const session = await client.request('POST', `/v2/${repository}/blobs/uploads/`)
    const path = pathOf(session.headers.location)
    const outgoing = open(up, 'PATCH', path, { 'Content-Type': 'application/octet-stream' })
    outgoing.write(blob.bytes.subarray(0, sent))
    const startedAt = performance.now()
    const closed = new Promise<void>((resolve) => {
      outgoing.once('error', () => resolve())
      outgoing.once('close', () => resolve())
      outgoing.once('response', (incoming: IncomingMessage) => {
        t.diagnostic(`answered ${incoming.statusCode ?? 0} first`)
        incoming.resume().once('close', resolve)
      })
    })
    const isCut = await Promise.race([
      closed.then(() => true),
      delay(120_000, false, { ref: false }),
    ])
    const idle = seconds(startedAt)
    t.diagnostic(`cut after ${idle} s`)
    assert.ok(isCut)
    assert.ok(idle >= 55 && idle <= 90, `${idle} s`)

    const state = await client.request('GET', path)
    assert.equal(state.status, 204)
    assert.equal(state.headers.range, `0-${sent - 1}`)
    const rest = await client.request('PATCH', path, {
      body: blob.bytes.subarray(sent),
      headers: {
        'Content-Type': 'application/octet-stream',
        'Content-Range': `${sent}-${blob.bytes.length - 1}`,
      },
    })
    assert.equal(rest.status, 202)
    const put = await client.request('PUT', path, { query: { digest: blob.digest } })
    assert.equal(put.status, 201)
  })

  test('a connection that was idle for 100 s takes a POST', async (t) => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    try {
      for (const where of ['primary', 'edge'] as const) {
        const first = open(up, 'GET', '/v2/', {}, { agent, where })
        first.end()
        assert.equal((await answerOf(first)).status, where === 'primary' ? 200 : 401)
      }
      await delay(100_000)
      for (const where of ['primary', 'edge'] as const) {
        const path = where === 'primary' ? `/v2/${repository}/blobs/uploads/` : '/service/token'
        const later = open(up, 'POST', path, { 'Content-Length': '0' }, { agent, where })
        later.end()
        const { status } = await answerOf(later)
        t.diagnostic(
          `${where}: answered ${status} on the ${later.reusedSocket ? 'old' : 'new'} connection`,
        )
        assert.ok(later.reusedSocket, where)
        assert.ok(where === 'primary' ? status === 202 : status >= 400 && status < 500)
      }
    } finally {
      agent.destroy()
    }
  })
})

function open(
  { urls, admin }: TestUp,
  method: string,
  path: string,
  headers: Readonly<Record<string, string>>,
  {
    agent,
    where = 'primary',
  }: { readonly agent?: Agent; readonly where?: 'primary' | 'edge' } = {},
): ClientRequest {
  const basic = Buffer.from(`${admin.username}:${admin.password}`).toString('base64')
  return sendRequest(new URL(path, urls[where]), {
    method,
    ...(agent !== undefined && { agent }),
    headers: { ...(where === 'primary' && { Authorization: `Basic ${basic}` }), ...headers },
  })
}

async function answerOf(outgoing: ClientRequest): Promise<{ readonly status: number }> {
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  incoming.resume()
  await once(incoming, 'end')
  return { status: incoming.statusCode ?? 0 }
}

function pathOf(location: string | undefined): string {
  const url = new URL(location ?? '', 'http://127.0.0.1')
  return url.pathname + url.search
}

function seconds(since: number): number {
  return Math.round((performance.now() - since) / 100) / 10
}
