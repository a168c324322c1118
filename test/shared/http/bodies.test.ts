import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { acceptForms, acceptJson } from '../../../shared/http/bodies.ts'
import { startHttpServer } from '../../kit/http-server.ts'

async function startApi(test: TestContext) {
  return startHttpServer(test, {
    routes: (app) => {
      void app.register(async (scope) => {
        acceptJson(scope, { maxBytes: 1000 })
        acceptForms(scope, { maxBytes: 1000 })
        scope.post('/api', async ({ body }) =>
          body instanceof URLSearchParams ? { form: [...body] } : { json: body ?? 'none' },
        )
      })
      app.post('/v2/raw', async ({ raw, body }) => {
        let bytes = 0
        for await (const chunk of raw) bytes += (chunk as Buffer).length
        return { bytes, body: body ?? 'none' }
      })
    },
  })
}

async function post(url: URL, body: string, type?: string): Promise<[number, unknown]> {
  const response = await fetch(url, {
    method: 'POST',
    body: Buffer.from(body),
    ...(type === undefined ? {} : { headers: { 'Content-Type': type } }),
  })
  return [response.status, await response.json()]
}

test('a scope that takes JSON gets it parsed, with or without a type, empty or not', async (t) => {
  const { url } = await startApi(t)
  const api = new URL('/api', url)
  assert.deepEqual(await post(api, '{"a":1}', 'application/json'), [200, { json: { a: 1 } }])
  assert.deepEqual(await post(api, '{"a":1}', 'application/json; charset=utf-8'), [
    200,
    { json: { a: 1 } },
  ])
  assert.deepEqual(await post(api, '{"a":1}'), [200, { json: { a: 1 } }])
  assert.deepEqual(await post(api, '', 'application/json'), [200, { json: 'none' }])
  assert.deepEqual(await post(api, '', 'application/octet-stream'), [200, { json: 'none' }])
})

test('what is not JSON, not the right type, too large, or meant to poison prototypes is refused', async (t) => {
  const { url, lines } = await startApi(t)
  const api = new URL('/api', url)
  const codeOf = ([status, body]: [number, unknown]) => [
    status,
    (body as { readonly errors: readonly { readonly code: string }[] }).errors[0]?.code,
  ]
  const cases: readonly (readonly [string, string | undefined, number, string])[] = [
    ['{"a":', 'application/json', 400, 'BAD_REQUEST'],
    ['not json', undefined, 400, 'BAD_REQUEST'],
    ['{"__proto__":{"x":1}}', 'application/json', 400, 'BAD_REQUEST'],
    ['{"constructor":{"prototype":{"x":1}}}', 'application/json', 400, 'BAD_REQUEST'],
    ['<a/>', 'text/xml', 415, 'UNSUPPORTED_MEDIA_TYPE'],
    [`"${'x'.repeat(2000)}"`, 'application/json', 413, 'REQUEST_ENTITY_TOO_LARGE'],
  ]
  for (const [body, type, status, code] of cases) {
    assert.deepEqual(codeOf(await post(api, body, type)), [status, code], body.slice(0, 40))
  }
  assert.deepEqual(
    lines.filter(({ level }) => level === 'error'),
    [],
  )
})

test('forms are read as their fields', async (t) => {
  const { url } = await startApi(t)
  assert.deepEqual(
    await post(new URL('/api', url), 'a=1&a=2&b=%20', 'application/x-www-form-urlencoded'),
    [
      200,
      {
        form: [
          ['a', '1'],
          ['a', '2'],
          ['b', ' '],
        ],
      },
    ],
  )
})

test('routes outside that scope get their bodies unread still', async (t) => {
  const { url } = await startApi(t)
  assert.deepEqual(await post(new URL('/v2/raw', url), '{"a":', 'application/json'), [
    200,
    { bytes: 5, body: 'none' },
  ])
})
