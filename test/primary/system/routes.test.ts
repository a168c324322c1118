import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startAdmin } from '../../kit/admin.ts'

const api = '/api/v2.0'

interface Operation {
  readonly summary?: string
  readonly tags?: readonly string[]
  readonly responses: Readonly<Record<string, unknown>>
  readonly requestBody?: unknown
  readonly parameters?: readonly { readonly name: string; readonly in: string }[]
}
interface Document {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
}

test('the probes answer without a log-in', async (t) => {
  const { call } = await startAdmin(t)
  const ping = await call(`${api}/ping`)
  assert.equal(ping.body, 'Pong')
  assert.match(ping.headers.get('content-type') ?? '', /^text\/plain/)
  assert.deepEqual((await call('/api/version')).body, { version: 'v2.0' })
  assert.deepEqual((await call(`${api}/health`)).body, {
    status: 'healthy',
    components: [
      { name: 'core', status: 'healthy' },
      { name: 'database', status: 'healthy' },
    ],
  })
})

test('systeminfo says more after a log-in', async (t) => {
  const { call, asAdmin } = await startAdmin(t)
  assert.deepEqual((await call(`${api}/systeminfo`)).body, {
    auth_mode: 'db_auth',
    primary_auth_mode: false,
    self_registration: false,
    banner_message: '',
    oidc_provider_name: '',
  })
  const more = (await asAdmin(`${api}/systeminfo`)).body as Record<string, unknown>
  assert.equal(more['external_url'], 'https://registry.example')
  assert.equal(more['registry_url'], 'registry.example')
  assert.match(String(more['harbor_version']), /^v2\.\d+\.\d+-outport-/)
  assert.deepEqual((await asAdmin(`${api}/systeminfo/volumes`)).body, {
    storage: [{ total: 100, free: 40 }],
  })
  assert.equal((await call(`${api}/systeminfo/getcert`)).status, 404)
})

test('statistics count what the caller sees, and bytes only for administrators', async (t) => {
  const { asAdmin, call } = await startAdmin(t)
  const body = { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' }
  await asAdmin(`${api}/users`, { method: 'POST', body })
  await asAdmin(`${api}/projects`, { method: 'POST', body: { project_name: 'closed' } })
  await asAdmin(`${api}/projects`, { method: 'POST', body: { project_name: 'open', public: true } })
  assert.deepEqual((await call(`${api}/statistics`, { as: 'alice:Abcd1234' })).body, {
    private_project_count: 0,
    private_repo_count: 0,
    public_project_count: 1,
    public_repo_count: 0,
  })
  const all = (await asAdmin(`${api}/statistics`)).body as Record<string, unknown>
  assert.equal(all['total_project_count'], 2)
  assert.equal(all['total_storage_consumption'], 0)
})

test('the OpenAPI document has every operation with its parameters and responses', async (t) => {
  const { call, routes } = await startAdmin(t)
  const answer = await call(`${api}/openapi.json`)
  assert.match(answer.headers.get('content-type') ?? '', /^application\/json/)
  const document = answer.body as Document
  assert.match(document.openapi, /^3\./)
  const served = routes.filter((route) => route.includes(` ${api}/`)).sort()
  const described = Object.entries(document.paths)
    .flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    )
    .sort()
  const asWritten = served.map((route) => route.replaceAll(/:([a-z_]+)/g, '{$1}')).sort()
  assert.deepEqual(described, asWritten)
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const name = `${method} ${path}`
      assert.ok(operation.summary && operation.tags?.length === 1, name)
      const success = Object.keys(operation.responses).filter((status) => /^2\d\d$/.test(status))
      // A dry run is answered 200 with what would be, a run 201.
      // A preheat that runs already is answered 200.
      const successes = /^post \S+\/(replication\/executions|preheat)$/.test(name) ? 2 : 1
      assert.equal(success.length, successes, `${name} has one success`)
      assert.ok('4XX' in operation.responses, `${name} says how it refuses`)
      const inPath = [...path.matchAll(/\{([a-z_]+)\}/g)].map(([, parameter]) => parameter)
      const listed = (operation.parameters ?? [])
        .filter((parameter) => parameter.in === 'path')
        .map((parameter) => parameter.name)
      assert.deepEqual(listed.sort(), inPath.sort(), `${name} describes its path`)
      // What is only to be done needs no words.
      const takesBody =
        ['post', 'put', 'patch'].includes(method) &&
        !/(suspend|resume|drain|forget|executions\/\{id\})$/.test(path)
      assert.equal('requestBody' in operation, takesBody, name)
    }
  }
})

test('unknown paths, methods and bodies are refused in the API’s form', async (t) => {
  const { call, asAdmin } = await startAdmin(t)
  const missing = await call(`${api}/nothing`)
  assert.equal(missing.status, 404)
  assert.match(JSON.stringify(missing.body), /"errors":\[\{"code":"NOT_FOUND"/)
  const method = await call(`${api}/projects`, { method: 'PATCH' })
  assert.equal(method.status, 405)
  assert.match(method.headers.get('allow') ?? '', /GET, HEAD, POST/)
  const broken = await asAdmin(`${api}/projects`, { method: 'POST', body: '{"a":' })
  assert.match(JSON.stringify(broken.body), /"code":"BAD_REQUEST"/)
})
