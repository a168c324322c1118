import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import {
  createHttpClient,
  HttpError,
  type HttpClientOptions,
  type HttpErrorCode,
} from '../../../shared/http/client.ts'
import { createGuard } from '../../../shared/http/guard.ts'
import { makeCertificate } from '../../kit/certificates.ts'

async function serve(server: Server, use: (port: number) => Promise<void>): Promise<void> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    await use((server.address() as AddressInfo).port)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

async function withClient(
  listener: RequestListener,
  use: (at: { client: ReturnType<typeof createHttpClient>; url: URL }) => Promise<void>,
  options: Partial<HttpClientOptions> = {},
): Promise<void> {
  await serve(createServer(listener), async (port) => {
    const url = new URL(`http://127.0.0.1:${port}/`)
    const client = createHttpClient({ guard: createGuard({ configured: [url] }), ...options })
    try {
      await use({ client, url })
    } finally {
      client.close()
    }
  })
}

async function failure(running: Promise<unknown>): Promise<HttpErrorCode> {
  const error = await running.then(
    () => assert.fail('it should fail'),
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof HttpError, String(error))
  return error.code
}

test('every status is an answer, and redirects are not followed', () =>
  withClient(
    (request, response) => {
      const status = Number(request.url?.slice(1))
      response.writeHead(status, { location: '/200', 'x-a': ['1', '2'] })
      response.end(`said ${status}`)
    },
    async ({ client, url }) => {
      for (const status of [200, 302, 404, 500, 503]) {
        const response = await client.request(new URL(`/${status}`, url))
        assert.equal(response.status, status)
        assert.equal(response.body.toString(), `said ${status}`)
        assert.equal(response.headers['x-a'], '1, 2')
      }
    },
  ))

test('a body that is longer than allowed is not read to its end', () => {
  let sent = 0
  return withClient(
    (_request, response) => {
      const more = () => {
        if (response.destroyed) return
        sent += 65536
        response.write(Buffer.alloc(65536), () => setImmediate(more))
      }
      more()
    },
    async ({ client, url }) => {
      assert.equal(await failure(client.request(url, { maxBytes: 100_000 })), 'too-large')
      assert.ok(sent < 20_000_000)
    },
  )
})

test('a body of exactly the allowed length is fine, whatever its Content-Encoding says', () =>
  withClient(
    (_request, response) => {
      response.writeHead(200, { 'content-encoding': 'gzip' })
      response.end(Buffer.alloc(1000, 1))
    },
    async ({ client, url }) => {
      const { body } = await client.request(url, { maxBytes: 1000 })
      assert.deepEqual(body, Buffer.alloc(1000, 1))
      assert.equal(await failure(client.request(url, { maxBytes: 999 })), 'too-large')
    },
  ))

test('a server that never answers or stops in the body is given up', () =>
  withClient(
    (request, response) => {
      if (request.url === '/body') response.write('some')
    },
    async ({ client, url }) => {
      assert.equal(await failure(client.request(url)), 'timeout')
      assert.equal(await failure(client.request(new URL('/body', url))), 'timeout')
    },
    { headersTimeoutMs: 100, stallMs: 100 },
  ))

test('an aborted request ends with the reason that it was given', () =>
  withClient(
    () => undefined,
    async ({ client, url }) => {
      const controller = new AbortController()
      const running = client.request(url, { signal: controller.signal })
      setImmediate(() => controller.abort(new Error('no longer wanted')))
      await assert.rejects(running, /no longer wanted/)
    },
  ))

test('a kept connection that the server has closed costs a GET nothing, and a POST is not repeated', () => {
  let served = 0
  return withClient(
    (_request, response) => {
      served++
      // The second request on a connection finds it closed.
      if (served % 2 === 0) return void response.socket?.destroy()
      response.end('ok')
    },
    async ({ client, url }) => {
      assert.equal((await client.request(url)).status, 200)
      assert.equal((await client.request(url)).status, 200)
      assert.equal(served, 3)
      assert.equal(await failure(client.request(url, { method: 'POST', body: 'x' })), 'network')
      assert.equal(served, 4)
    },
  )
})

test('a first connection that fails is an error, not an endless retry', () => {
  let served = 0
  return withClient(
    (_request, response) => {
      served++
      response.socket?.destroy()
    },
    async ({ client, url }) => {
      assert.equal(await failure(client.request(url)), 'network')
      assert.equal(served, 1)
    },
  )
})

test('nobody is dialled whom the guard forbids: literal addresses, every spelling, and names', () =>
  serve(
    createServer((_request, response) => response.end('secret')),
    async (port) => {
      const client = createHttpClient({ guard: createGuard({ configured: [] }) })
      try {
        for (const host of [
          '127.0.0.1',
          '2130706433',
          '0177.0.0.1',
          '0x7f.1',
          '127.1',
          '[::ffff:127.0.0.1]',
          '[::1]',
          'localhost',
          '0.0.0.0',
          '169.254.169.254',
        ]) {
          const url = new URL(`http://${host}:${port}/`)
          assert.equal(await failure(client.request(url)), 'forbidden', host)
        }
      } finally {
        client.close()
      }
    },
  ))

test('a certificate counts only under the CA that was given', async () => {
  const ca = makeCertificate({ commonName: 'a CA', isCa: true, names: [] })
  const { cert, key } = makeCertificate({ issuer: ca })
  const server = createTlsServer({ cert, key }, (_request, response) => response.end('ok'))
  await serve(server, async (port) => {
    const url = new URL(`https://127.0.0.1:${port}/`)
    const guard = createGuard({ configured: [url] })
    const [trusting, strict] = [
      createHttpClient({ guard, ca: ca.cert }),
      createHttpClient({ guard }),
    ]
    try {
      assert.equal((await trusting.request(url)).status, 200)
      assert.equal(await failure(strict.request(url)), 'tls')
    } finally {
      trusting.close()
      strict.close()
    }
  })
})
