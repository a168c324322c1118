import assert from 'node:assert/strict'
import { request as httpRequest } from 'node:http'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { ApiError } from '../../../shared/api/errors.ts'
import { recordOf } from '../../../shared/http/request-record.ts'
import type { HttpServer } from '../../../shared/http/server.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { waitFor } from '../../kit/clock.ts'
import { connectRaw, startHttpServer } from '../../kit/http-server.ts'

interface ErrorBody {
  readonly errors: readonly { readonly code: string; readonly message: string }[]
}

async function errorsOf(response: Response): Promise<ErrorBody['errors']> {
  assert.equal(response.headers.get('content-type'), 'application/json')
  return ((await response.json()) as ErrorBody).errors
}

/** The errors in a raw response. */
function errorsIn(response: string): ErrorBody['errors'] {
  return (JSON.parse(response.slice(response.indexOf('\r\n\r\n') + 4)) as ErrorBody).errors
}

describe('what routes throw', () => {
  const routes = (app: HttpServer['app']) => {
    app.get('/oci', async () => {
      throw new OciError('TOOMANYREQUESTS', 'slow down', {
        headers: { 'Retry-After': '7' },
        more: [{ code: 'DENIED', message: 'also' }],
      })
    })
    app.get('/api', () => {
      throw new ApiError('CONFLICT', 'it is there already')
    })
    app.get('/fault', async () => {
      throw new Error('SELECT failed for user PLANTED', { cause: new Error('disk') })
    })
    app.get('/not-an-error', async () => {
      // eslint-disable-next-line @typescript-eslint/only-throw-error -- libraries do this
      throw 'PLANTED'
    })
    app.get('/hijacked', async (_request, reply) => {
      reply.hijack()
      throw new OciError('BLOB_UNKNOWN', 'no such blob')
    })
    app.get('/begun', async (_request, reply) => {
      reply.hijack()
      reply.raw.writeHead(200, { 'Content-Length': 100 })
      reply.raw.write('half')
      throw new Error('the disk broke')
    })
    app.get('/headers', async (_request, reply) => {
      void reply.header('Docker-Distribution-API-Version', 'registry/2.0').header('ETag', '"x"')
      throw new OciError('DENIED', 'no')
    })
  }

  test('is answered as itself when it is a refusal, with its status, headers and all entries', async (t) => {
    const { url } = await startHttpServer(t, { routes })
    const response = await fetch(new URL('/oci', url))
    assert.equal(response.status, 429)
    assert.equal(response.headers.get('retry-after'), '7')
    assert.deepEqual(await errorsOf(response), [
      { code: 'TOOMANYREQUESTS', message: 'slow down' },
      { code: 'DENIED', message: 'also' },
    ])
    const conflict = await fetch(new URL('/api', url))
    assert.equal(conflict.status, 409)
    assert.deepEqual(await errorsOf(conflict), [
      { code: 'CONFLICT', message: 'it is there already' },
    ])
  })

  test('is a fault otherwise: 500 with the request id, and one line in the log with the cause', async (t) => {
    const { url, lines } = await startHttpServer(t, { routes })
    for (const path of ['/fault', '/not-an-error']) {
      const response = await fetch(new URL(path, url), { headers: { 'X-Request-Id': `id${path}` } })
      assert.equal(response.status, 500)
      const [error] = await errorsOf(response)
      assert.equal(error?.code, 'UNKNOWN')
      assert.match(error?.message ?? '', new RegExp(`request id id${path}$`))
      assert.doesNotMatch(error?.message ?? '', /PLANTED/)
    }
    const faults = lines.filter(({ level }) => level === 'error')
    assert.deepEqual(
      faults.map(({ requestId, route }) => [requestId, route]),
      [
        ['id/fault', '/fault'],
        ['id/not-an-error', '/not-an-error'],
      ],
    )
    const err = faults[0]?.err as { readonly cause: { readonly message: string } }
    assert.equal(err.cause.message, 'disk')
  })

  test('is answered too when the route had taken the response over', async (t) => {
    const { url } = await startHttpServer(t, { routes })
    const response = await fetch(new URL('/hijacked', url))
    assert.equal(response.status, 404)
    assert.equal((await errorsOf(response))[0]?.code, 'BLOB_UNKNOWN')
  })

  test('cuts a response that has begun, so that it is not taken for whole', async (t) => {
    const { url, lines } = await startHttpServer(t, { routes })
    const response = await fetch(new URL('/begun', url))
    await assert.rejects(response.text())
    await waitFor('the access line', () => lines.some(({ msg }) => msg === 'request'))
    assert.equal(lines.filter(({ level }) => level === 'error').length, 1)
    assert.equal(lines.find(({ msg }) => msg === 'request')?.aborted, true)
  })

  test('keeps the headers of the hooks but not those about the body that was not sent', async (t) => {
    const { url } = await startHttpServer(t, { routes })
    const { headers } = await fetch(new URL('/headers', url))
    assert.equal(headers.get('docker-distribution-api-version'), 'registry/2.0')
    assert.equal(headers.get('etag'), null)
  })
})

describe('a request that no route takes', () => {
  const routes = (app: HttpServer['app']) => {
    app.route({ method: ['GET', 'PUT'], url: '/v2/*', handler: async () => 'ok' })
    app.get('/api/things/:id', async () => 'ok')
    app.delete('/api/things/:id(^\\d+$)', async () => 'ok')
  }

  test('is 404 in the form of errors that its clients know', async (t) => {
    const { url } = await startHttpServer(t, { routes })
    for (const path of ['/', '/nowhere', '/api/things', '/v2nowhere', '//v2/x']) {
      const response = await fetch(`${url.origin}${path}`)
      assert.equal(response.status, 404, path)
      assert.equal((await errorsOf(response))[0]?.code, 'NOT_FOUND', path)
    }
  })

  test('is 405 with Allow when the path exists with another method', async (t) => {
    const { url } = await startHttpServer(t, { routes })
    const response = await fetch(new URL('/v2/a/b', url), { method: 'DELETE' })
    assert.equal(response.status, 405)
    assert.equal(response.headers.get('allow'), 'GET, HEAD, PUT')
    assert.equal((await errorsOf(response))[0]?.code, 'UNSUPPORTED')
    const thing = await fetch(new URL('/api/things/7', url), { method: 'POST', body: 'x' })
    assert.equal(thing.status, 405)
    assert.equal(thing.headers.get('allow'), 'DELETE, GET, HEAD')
    assert.equal((await errorsOf(thing))[0]?.code, 'METHOD_NOT_ALLOWED')
  })

  test('is 405 with a method that nobody knows', async (t) => {
    const { port } = await startHttpServer(t, { routes })
    const connection = await connectRaw(t, port)
    connection.send('PROPFIND /v2/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
    assert.match(await connection.closed(), /^HTTP\/1\.1 405 /)
  })
})

describe('a malformed request', () => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['an unknown protocol', 'HELO example.com\r\n\r\n', /^HTTP\/1\.1 400 Bad Request\r\n/],
    ['a broken header', 'GET / HTTP/1.1\r\nHost: h\r\nno colon here\r\n\r\n', /^HTTP\/1\.1 400 /],
    ['a space before the colon', 'GET / HTTP/1.1\r\nHost : h\r\n\r\n', /^HTTP\/1\.1 400 /],
    ['a missing Host', 'GET /ok HTTP/1.1\r\n\r\n', /^HTTP\/1\.1 400 /],
    [
      'both Content-Length and Transfer-Encoding',
      'POST /ok HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    [
      'two different Content-Lengths',
      'POST /ok HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    [
      'a negative Content-Length',
      'POST /ok HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    [
      'a bad chunk size',
      'POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    [
      'headers beyond the limit',
      `GET /ok HTTP/1.1\r\nHost: h\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`,
      /^HTTP\/1\.1 431 /,
    ],
    [
      'a URL beyond the limit',
      `GET /${'u'.repeat(70_000)} HTTP/1.1\r\nHost: h\r\n\r\n`,
      /^HTTP\/1\.1 431 /,
    ],
    [
      'a URL that is not percent-encoded',
      'GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    ['an asterisk', 'OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n', /^HTTP\/1\.1 40[04] /],
    [
      'a content type that is none',
      'POST /ok HTTP/1.1\r\nHost: h\r\nContent-Type: x\r\nContent-Length: 1\r\n\r\nx',
      /^HTTP\/1\.1 415 /,
    ],
    ['TLS on a plain port', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', /^HTTP\/1\.1 400 /],
  ]

  for (const [what, text, expected] of cases) {
    test(`(${what}) is refused in the API's form, and the server lives on`, async (t) => {
      const { port, url, lines } = await startHttpServer(t, {
        routes: (app) => {
          app.all('/ok', async () => 'ok')
          app.post('/read', async ({ raw }) => {
            for await (const _chunk of raw);
            return 'read'
          })
        },
      })
      const connection = await connectRaw(t, port)
      connection.send(text)
      const response = await connection.until(/\]\}$/)
      assert.match(response, expected)
      assert.match(response, /\r\nContent-Type: application\/json\r\n/)
      const [error] = errorsIn(response)
      assert.ok((error?.message ?? '').length > 5)
      assert.deepEqual(
        lines.filter(({ level }) => level === 'error'),
        [],
      )
      assert.equal((await fetch(new URL('/ok', url))).status, 200)
    })
  }

  test('has the code that the API under its path knows, and a message of ours', async (t) => {
    const { port } = await startHttpServer(t, {
      routes: (app) => void app.get('/v2/*', async () => 'ok'),
    })
    for (const [target, code, message] of [
      ['/v2/%zz/manifests/a HTTP/1.1\r\nHost: h', 'NAME_INVALID', /not valid percent-encoded/],
      ['/v2/a/manifests/%ff HTTP/1.1\r\nHost: h', 'NAME_INVALID', /not valid percent-encoded/],
      ['http://h/v2/%zz HTTP/1.1\r\nHost: h', 'NAME_INVALID', /not valid percent-encoded/],
      ['/api/%zz HTTP/1.1\r\nHost: h', 'BAD_REQUEST', /not valid percent-encoded/],
      ['/v2/ HTTP/1.1', 'UNSUPPORTED', /needs a Host header/],
      ['/v2?n=1 HTTP/1.1', 'UNSUPPORTED', /needs a Host header/],
      ['/api HTTP/1.1', 'BAD_REQUEST', /needs a Host header/],
    ] as const) {
      const connection = await connectRaw(t, port)
      connection.send(`GET ${target}\r\n\r\n`)
      const response = await connection.until(/\]\}$/)
      assert.match(response, /^HTTP\/1\.1 400 /)
      const [error] = errorsIn(response)
      assert.equal(error?.code, code, target)
      assert.match(error.message, message)
    }
  })

  test('behind a good one on the same connection does not garble the answer that is due', async (t) => {
    const { port } = await startHttpServer(t, {
      routes: (app) => {
        app.get('/slow', async () => {
          await delay(50)
          return 'the answer'
        })
      },
    })
    const connection = await connectRaw(t, port)
    connection.send('GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE\r\n\r\n')
    const response = await connection.closed()
    assert.ok(response === '' || response.startsWith('HTTP/1.1 200 '), response)
  })

  test('whose headers do not come to an end is answered 408', async (t) => {
    const { port } = await startHttpServer(t, { timeouts: { headers: 200 } })
    const [silent, half] = [await connectRaw(t, port), await connectRaw(t, port)]
    half.send('GET / HTTP/1.1\r\nHost: h\r\n')
    assert.match(await half.closed(), /^HTTP\/1\.1 408 /)
    await silent.closed()
  })
})

test('an absolute-form target is taken as its path', async (t) => {
  const { port } = await startHttpServer(t, {
    routes: (app) => {
      app.get('/v2/*', async ({ raw }) => raw.url ?? '')
    },
  })
  const connection = await connectRaw(t, port)
  connection.send(
    'GET http://h:80/v2/a%2Fb/../c?ns=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n',
  )
  assert.match(await connection.closed(), /\r\n\r\n\/v2\/a%2Fb\/\.\.\/c\?ns=x$/)
})

describe('request bodies', () => {
  test('reach the route unread, whatever their type, framing and size', async (t) => {
    const { url } = await startHttpServer(t, {
      routes: (app) => {
        app.patch('/v2/*', async ({ raw, body }) => {
          assert.equal(body, undefined)
          let bytes = 0
          for await (const chunk of raw) bytes += (chunk as Buffer).length
          return { bytes }
        })
      },
    })
    const types = [
      undefined,
      'application/json',
      'application/octet-stream',
      'text/plain',
      'a/b; c="d"',
    ]
    for (const type of types) {
      for (const chunked of [false, true]) {
        const size = 3_000_000
        const outgoing = httpRequest(new URL('/v2/x', url), {
          method: 'PATCH',
          headers: {
            ...(type === undefined ? {} : { 'Content-Type': type }),
            ...(chunked ? { 'Transfer-Encoding': 'chunked' } : { 'Content-Length': size }),
          },
        })
        outgoing.end(Buffer.alloc(size, '{'))
        const [response] = (await once(outgoing, 'response')) as [AsyncIterable<Buffer>]
        let text = ''
        for await (const chunk of response) text += chunk.toString()
        assert.deepEqual(JSON.parse(text), { bytes: size }, `${type ?? 'none'} ${chunked}`)
      }
    }
  })

  test('that are refused are read to their end first, so that clients see why', async (t) => {
    const { port } = await startHttpServer(t, {
      routes: (app) => {
        app.patch('/thrown', async () => {
          throw new OciError('UNAUTHORIZED', 'log in first')
        })
        app.patch('/sent', async (_request, reply) => reply.code(401).send('log in first'))
      },
    })
    for (const path of ['/thrown', '/sent']) {
      for (let round = 0; round < 10; round++) {
        // docker's way: chunked, Connection: close, and it reads only when it has written all.
        const connection = await connectRaw(t, port)
        connection.send(
          `PATCH ${path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n`,
        )
        const chunk = Buffer.alloc(65_536, 'x')
        for (let sent = 0; sent < 32; sent++) {
          connection.send(`${chunk.length.toString(16)}\r\n`)
          connection.send(chunk)
          connection.send('\r\n')
        }
        connection.send('0\r\n\r\n')
        assert.match(await connection.closed(), /^HTTP\/1\.1 401 .*log in first/s)
      }
    }
  })

  test('that are refused are not answered before they have come', async (t) => {
    const { port } = await startHttpServer(t, {
      routes: (app) => {
        app.patch('/x', async () => {
          throw new OciError('DENIED', 'no')
        })
      },
    })
    const connection = await connectRaw(t, port)
    connection.send('PATCH /x HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf')
    await delay(100)
    assert.equal(connection.received(), '')
    connection.send('done')
    assert.match(
      await connection.until(/DENIED/),
      /^HTTP\/1\.1 403 .*\r\nConnection: keep-alive\r\n/is,
    )
  })

  test('that are refused and too large, or too slow, close the connection behind the answer', async (t) => {
    const { port } = await startHttpServer(t, {
      limits: { refused_body: 100_000 },
      timeouts: { refused_body: 100 },
      routes: (app) => {
        app.patch('/x', async () => {
          throw new OciError('DENIED', 'no')
        })
      },
    })
    const head = 'PATCH /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n'
    const large = await connectRaw(t, port)
    large.send(head)
    large.send(Buffer.alloc(200_000))
    assert.match(await large.until(/DENIED/), /^HTTP\/1\.1 403 .*\r\nConnection: close\r\n/s)
    await large.closed()
    const slow = await connectRaw(t, port)
    slow.send(`${head}x`)
    assert.match(await slow.closed(), /^HTTP\/1\.1 403 .*\r\nConnection: close\r\n/s)
  })

  test('that a route leaves in the middle end with the answer, and the server lives on', async (t) => {
    const faults = { OciError: new OciError('DENIED', 'no'), fault: new Error('the disk broke') }
    const { port, url, lines } = await startHttpServer(t, {
      routes: (app) => {
        for (const [name, error] of Object.entries(faults)) {
          app.put(`/${name}`, async ({ raw }) => {
            for await (const _chunk of raw) throw error
          })
        }
      },
    })
    for (const [name, status] of [
      ['OciError', 403],
      ['fault', 500],
    ] as const) {
      const connection = await connectRaw(t, port)
      connection.send(`PUT /${name} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf`)
      assert.match(await connection.closed(), new RegExp(`^HTTP/1\\.1 ${status} .*"errors"`, 's'))
      const line = await waitFor('the line', () => lines.find((each) => each.status === status))
      assert.deepEqual([line.msg, line.client], ['request', '127.0.0.1'])
    }
    assert.equal((await fetch(new URL('/healthz', url))).status, 200)
  })

  test('are asked for by 100 Continue only when the route reads them', async (t) => {
    const { port } = await startHttpServer(t, {
      routes: (app) => {
        app.put('/taken', async ({ raw }) => {
          await delay(30)
          let text = ''
          for await (const chunk of raw) text += String(chunk)
          return text
        })
        app.put('/refused', async () => {
          throw new OciError('DENIED', 'no')
        })
      },
    })
    const head = (path: string) =>
      `PUT ${path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n`
    const taken = await connectRaw(t, port)
    taken.send(head('/taken'))
    assert.equal(await taken.until(/\r\n\r\n/), 'HTTP/1.1 100 Continue\r\n\r\n')
    taken.send('hello')
    assert.match(await taken.until(/hello$/), /\r\n\r\nHTTP\/1\.1 200 OK\r\n/)
    const refused = await connectRaw(t, port)
    refused.send(head('/refused'))
    assert.match(await refused.closed(), /^HTTP\/1\.1 403 .*\r\nConnection: close\r\n/s)
  })
})

describe('a request id', () => {
  const routes = (app: HttpServer['app']) => {
    app.get('/', async ({ id, raw }) => `${id} ${recordOf(raw).id}`)
  }

  test("is the client's when it is harmless, and made otherwise; it is echoed either way", async (t) => {
    const { url } = await startHttpServer(t, { routes })
    const taken = await fetch(url, { headers: { 'X-Request-Id': 'abc-1.2:3' } })
    assert.equal(taken.headers.get('x-request-id'), 'abc-1.2:3')
    assert.equal(await taken.text(), 'abc-1.2:3 abc-1.2:3')
    for (const bad of ['a b', '"', 'x'.repeat(129), 'ü']) {
      const made = await fetch(url, { headers: { 'X-Request-Id': encodeLatin1(bad) } })
      assert.match(made.headers.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/)
    }
  })
})

/** What fetch lets through as a header. */
function encodeLatin1(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}

describe('the access log', () => {
  test('has one line a request with what the route said, and no URL', async (t) => {
    const { url, lines } = await startHttpServer(t, {
      routes: (app) => {
        app.get('/v2/*', async ({ raw }) => {
          const record = recordOf(raw)
          record.route = 'blob'
          record.cache = 'hit'
          record.source = 'memory'
          record.fields = { upstream: 'primary' }
          return 'x'.repeat(5000)
        })
      },
    })
    await (await fetch(new URL('/v2/secret-name/blobs/x?token=PLANTED', url))).text()
    const line = await waitFor('the line', () => lines.find(({ msg }) => msg === 'request'))
    const { method, route, status, bytes, cache, source, upstream, client, level } = line
    assert.deepEqual(
      { method, route, status, cache, source, upstream, client, level },
      {
        method: 'GET',
        route: 'blob',
        status: 200,
        cache: 'hit',
        source: 'memory',
        upstream: 'primary',
        client: '127.0.0.1',
        level: 'info',
      },
    )
    assert.ok(Number(bytes) > 5000 && Number(bytes) < 6000, String(bytes))
    assert.doesNotMatch(JSON.stringify(lines), /PLANTED|secret-name/)
  })

  test('counts received bytes of each request on a kept connection', async (t) => {
    const { port, lines } = await startHttpServer(t, {
      routes: (app) => {
        app.post('/', async ({ raw }) => {
          for await (const _chunk of raw);
          return ''
        })
      },
    })
    const connection = await connectRaw(t, port)
    for (const size of [1000, 2000]) {
      const before = lines.length
      connection.send(
        `POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ${size}\r\n\r\n${'x'.repeat(size)}`,
      )
      await waitFor('the line', () => lines.length > before)
    }
    const received = lines.map(({ receivedBytes }) => Number(receivedBytes))
    assert.ok((received[0] ?? 0) > 1000 && (received[0] ?? 0) < 1200, String(received))
    assert.ok((received[1] ?? 0) > 2000 && (received[1] ?? 0) < 2200, String(received))
  })

  test('tells of a client that went away, without an error', async (t) => {
    const { port, lines, metrics } = await startHttpServer(t, {
      routes: (app) => {
        app.put('/', async ({ raw }) => {
          for await (const _chunk of raw);
          return ''
        })
      },
    })
    const connection = await connectRaw(t, port)
    connection.send('PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf')
    await waitFor('the request', async () =>
      / 1$/m.test(await metrics.registry.getSingleMetricAsString('outport_http_requests_running')),
    )
    connection.socket.destroy()
    const line = await waitFor('the line', () => lines.find(({ msg }) => msg === 'request'))
    assert.deepEqual([line.status, line.aborted], [0, true])
    assert.deepEqual(
      lines.filter(({ level }) => level === 'error'),
      [],
    )
  })
})

test('a route that goes on writing to a client that has gone hurts nobody', async (t) => {
  const done = Promise.withResolvers<void>()
  const { port, url, lines } = await startHttpServer(t, {
    routes: (app) => {
      app.get('/endless', async (_request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200)
        for (let round = 0; round < 100; round++) {
          reply.raw.write(Buffer.alloc(100_000))
          await delay(2)
        }
        reply.raw.end('late')
        done.resolve()
      })
    },
  })
  const connection = await connectRaw(t, port)
  connection.send('GET /endless HTTP/1.1\r\nHost: h\r\n\r\n')
  await connection.until(/200 OK/)
  connection.socket.resetAndDestroy()
  await done.promise
  assert.equal((await fetch(new URL('/healthz', url))).status, 200)
  assert.deepEqual(
    lines.filter(({ level }) => level === 'error'),
    [],
  )
})

describe('probes', () => {
  test('healthz is about the process, readyz about what it needs, without telling strangers what', async (t) => {
    let isUp = true
    const { url } = await startHttpServer(t, {
      readiness: async () => [{ name: 'database', ok: isUp, reason: 'PLANTED' }],
    })
    assert.equal((await fetch(new URL('/readyz', url))).status, 200)
    isUp = false
    const down = await fetch(new URL('/readyz', url))
    assert.equal(down.status, 503)
    assert.deepEqual(await down.json(), { status: 'not ready' })
    assert.equal((await fetch(new URL('/healthz', url))).status, 200)
  })

  test('a check that throws is one that failed', async (t) => {
    const { url } = await startHttpServer(t, {
      readiness: async () => {
        throw new Error('broken')
      },
    })
    assert.equal((await fetch(new URL('/readyz', url))).status, 503)
  })
})

test('a port that is taken is told with its number', async (t) => {
  const { port } = await startHttpServer(t, {})
  await assert.rejects(startHttpServer(t, { listener: { address: '127.0.0.1', port } }), {
    code: 'EADDRINUSE',
    port,
  })
})

describe('a server at rest', () => {
  test('keeps idle connections for keep_alive and longer than its clients do by default', async (t) => {
    const { port } = await startHttpServer(t, {
      timeouts: { keep_alive: 300, headers: 5000, idle: 5000 },
    })
    const connection = await connectRaw(t, port)
    connection.send('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
    await connection.until(/ok/)
    await delay(150)
    connection.send('GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n')
    await connection.until(/ok.*ok/s)
    await connection.closed()
  })
})
