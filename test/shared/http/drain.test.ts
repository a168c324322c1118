import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { once } from 'node:events'
import { describe, test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { waitFor } from '../../kit/clock.ts'
import { createHttpServer } from '../../../shared/http/server.ts'
import { createMetrics } from '../../../shared/observability/metrics.ts'
import {
  connectRaw,
  createRecordingLog,
  startHttpServer,
  type TestServer,
} from '../../kit/http-server.ts'

/** A server with a download that goes on until it is let go, and an upload. */
async function startServer(test: TestContext) {
  const gate = Promise.withResolvers<void>()
  const server = await startHttpServer(test, {
    timeouts: { idle: 60_000 },
    routes: (app) => {
      app.get('/download', async (_request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200, { 'Content-Length': 10 })
        reply.raw.write('first')
        await gate.promise
        reply.raw.end('LATER')
      })
      app.get('/late', async () => {
        await gate.promise
        return 'late answer'
      })
      app.put('/upload', async ({ raw }) => {
        let bytes = 0
        for await (const chunk of raw) bytes += (chunk as Buffer).length
        return { bytes }
      })
    },
  })
  return { ...server, release: () => gate.resolve() }
}

async function running(server: TestServer, count: number): Promise<void> {
  await waitFor(`${count} running requests`, async () => {
    const text = await server.metrics.registry.getSingleMetricAsString(
      'outport_http_requests_running',
    )
    return text.endsWith(` ${count}`)
  })
}

async function isRefused(port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port })
  try {
    await once(socket, 'connect')
    return false
  } catch {
    return true
  } finally {
    socket.destroy()
  }
}

describe('a drain', { concurrency: true }, () => {
  test('lets a running pull and push finish while new connections are refused', async (t) => {
    const server = await startServer(t)
    const pull = await connectRaw(t, server.port)
    pull.send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    await pull.until(/first$/)
    const push = await connectRaw(t, server.port)
    push.send('PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf')
    await running(server, 2)
    const drained = server.server.drain(10_000)
    await waitFor('new connections to be refused', () => isRefused(server.port))
    push.send('done')
    assert.match(
      await push.closed(),
      /^HTTP\/1\.1 200 OK\r\n.*\r\nConnection: close\r\n.*\{"bytes":8\}$/is,
    )
    server.release()
    assert.match(await pull.closed(), /firstLATER$/)
    await drained
  })

  test('does not wait for a kept connection whose transfer ends late', async (t) => {
    const server = await startServer(t)
    const pull = await connectRaw(t, server.port)
    pull.send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    await pull.until(/first$/)
    const before = performance.now()
    const drained = server.server.drain(30_000)
    await delay(1500)
    server.release()
    assert.match(await pull.closed(), /firstLATER$/)
    await drained
    assert.ok(performance.now() - before < 15_000, `${performance.now() - before} ms`)
  })

  test('tells the clients of answers that are yet to come to close', async (t) => {
    const server = await startServer(t)
    const connection = await connectRaw(t, server.port)
    connection.send('GET /late HTTP/1.1\r\nHost: h\r\n\r\n')
    await running(server, 1)
    const drained = server.server.drain(10_000)
    server.release()
    assert.match(await connection.closed(), /\r\nconnection: close\r\n.*late answer$/is)
    await drained
  })

  test('closes idle connections at once', async (t) => {
    const server = await startServer(t)
    const idle = await connectRaw(t, server.port)
    idle.send('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
    await idle.until(/ok/)
    const before = performance.now()
    await server.server.drain(10_000)
    await idle.closed()
    assert.ok(performance.now() - before < 5000, `${performance.now() - before} ms`)
  })

  test('answers a request that was on its way over a connection just accepted', async (t) => {
    const server = await startServer(t)
    const fresh = await connectRaw(t, server.port)
    const other = await connectRaw(t, server.port)
    other.send('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
    await other.until(/ok/)
    const drained = server.server.drain(10_000)
    fresh.send('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
    assert.match(await fresh.closed(), /^HTTP\/1\.1 200 /)
    await drained
  })

  test('does not wait long for connections that never ask', async (t) => {
    const server = await startServer(t)
    const silent = await connectRaw(t, server.port)
    const before = performance.now()
    await server.server.drain(30_000)
    await silent.closed()
    assert.ok(performance.now() - before < 10_000, `${performance.now() - before} ms`)
  })

  test('cuts what is left at the deadline, and then nothing is open', async (t) => {
    const server = await startServer(t)
    const stuck = await connectRaw(t, server.port)
    stuck.send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    await stuck.until(/first$/)
    const before = performance.now()
    await server.server.drain(200)
    const took = performance.now() - before
    assert.ok(took >= 190 && took < 5000, `${took} ms`)
    assert.match(await stuck.closed(), /first$/)
    const line = await waitFor('the line', () => server.lines.find(({ msg }) => msg === 'request'))
    assert.equal(line.aborted, true)
  })

  test('that is asked for again brings the deadline forward, and both come to an end', async (t) => {
    const server = await startServer(t)
    const stuck = await connectRaw(t, server.port)
    stuck.send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    await stuck.until(/first$/)
    const before = performance.now()
    const first = server.server.drain(60_000)
    await server.server.drain(0)
    await first
    await server.server.drain(100)
    assert.ok(performance.now() - before < 10_000)
    await stuck.closed()
  })

  test('of a server that never listened ends at once', async () => {
    const server = await createHttpServer({
      name: 'test',
      listener: { address: '127.0.0.1', port: 0 },
      log: createRecordingLog().log,
      httpMetrics: createMetrics('edge', { processMetrics: false }).http,
    })
    await server.drain(60_000)
  })
})
