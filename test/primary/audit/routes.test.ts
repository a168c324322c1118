import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTags } from '../../../primary/store/tags.ts'
import { formatBasic } from '../../../shared/auth/basic.ts'
import type { RepositoryName, Tag } from '../../../shared/oci/reference.ts'
import { startAdmin, type Admin } from '../../kit/admin.ts'

const api = '/api/v2.0'

interface Entry {
  readonly username: string
  readonly operation: string
  readonly resource_type: string
  readonly resource: string
  readonly operation_result: boolean
}

/** alice is the admin of `mine`; the administrator has `his`. */
async function createWorld(t: Parameters<typeof startAdmin>[0]) {
  const admin = await startAdmin(t)
  const { asAdmin, call } = admin
  await asAdmin(`${api}/users`, {
    method: 'POST',
    body: { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' },
  })
  await call(`${api}/projects`, {
    method: 'POST',
    as: 'alice:Abcd1234',
    body: { project_name: 'mine' },
  })
  await asAdmin(`${api}/projects`, { method: 'POST', body: { project_name: 'his' } })
  return admin
}

async function entries({ call }: Admin, path: string, as: string): Promise<readonly string[]> {
  const answer = await call(api + path, { as })
  assert.equal(answer.status, 200)
  return (answer.body as Entry[]).map(
    ({ username, operation, resource_type, resource }) =>
      `${username} ${operation} ${resource_type} ${resource}`,
  )
}

test('every change is written down, newest first', async (t) => {
  const admin = await createWorld(t)
  const as = 'admin:Admin1234'
  await admin.asAdmin(`${api}/projects/mine/members`, {
    method: 'POST',
    body: { role_id: 3, member_user: { username: 'admin' } },
  })
  await admin.asAdmin(`${api}/projects/his`, { method: 'DELETE' })
  await admin.asAdmin(`${api}/users/2/sysadmin`, { method: 'PUT', body: { sysadmin_flag: true } })
  assert.deepEqual(await entries(admin, '/audit-logs', as), [
    'admin update user alice',
    'admin delete project his',
    'admin create member admin',
    'admin create project his',
    'alice create project mine',
    'admin create user alice',
    ' create user admin',
  ])
  assert.deepEqual(await entries(admin, '/audit-logs?q=operation=delete', as), [
    'admin delete project his',
  ])
  assert.deepEqual(await entries(admin, '/audit-logs?sort=op_time&page_size=1&page=2', as), [
    'admin create user alice',
  ])
  assert.deepEqual(await entries(admin, '/audit-logs?q=op_time=[~2001-01-01]', as), [])
  const wrong = await admin.asAdmin(`${api}/audit-logs?q=address=~1`)
  assert.equal(wrong.status, 400)
})

test('a project admin sees the logs of their own projects', async (t) => {
  const admin = await createWorld(t)
  const as = 'alice:Abcd1234'
  const own = ['alice create project mine']
  assert.deepEqual(await entries(admin, '/audit-logs', as), own)
  assert.deepEqual(await entries(admin, '/projects/mine/logs', as), own)
  assert.deepEqual(await entries(admin, '/projects/mine/auditlog-exts', as), own)
  assert.equal((await admin.call(`${api}/projects/his/logs`, { as })).status, 403)
  const widened = await entries(admin, '/audit-logs?q=project_id={1%202}', as)
  assert.deepEqual(widened, own)
})

test('a refused log-in is written down with its name, and shown as refused', async (t) => {
  const admin = await createWorld(t)
  assert.equal((await admin.call(`${api}/users/current`, { as: 'alice:Wrong1234' })).status, 401)
  assert.equal((await admin.call(`${api}/users/current`, { as: 'ghost:Wrong1234' })).status, 401)
  const answer = await admin.asAdmin(`${api}/auditlog-exts?q=operation=login`)
  const refused = (answer.body as Entry[]).map(({ username, operation_result }) => [
    username,
    operation_result,
  ])
  assert.deepEqual(refused, [
    ['ghost', false],
    ['alice', false],
  ])
  const row = await admin.records
    .selectFrom('audit')
    .select('address')
    .where('operation', '=', 'login')
    .executeTakeFirstOrThrow()
  assert.equal(row.address, '127.0.0.1')
})

test('robots, settings, repositories, tags and passwords are written down, and what goes with a project', async (t) => {
  const admin = await createWorld(t)
  const { asAdmin, records } = admin
  const as = 'admin:Admin1234'
  const repository = await records
    .insertInto('repositories')
    .values({ project_id: 2, name: 'his/app', description: '' })
    .returning('id')
    .executeTakeFirstOrThrow()
  const digest = `sha256:${'a'.repeat(64)}`
  await records
    .insertInto('manifests')
    .values({
      repository_id: repository.id,
      digest,
      media_type: 'application/vnd.oci.image.manifest.v1+json',
      size: 2,
      content: Buffer.from('{}'),
    })
    .execute()
  await records
    .insertInto('tags')
    .values({ repository_id: repository.id, name: 'v1', digest })
    .execute()
  await records
    .insertInto('repositories')
    .values({ project_id: 2, name: 'his/half', description: '' })
    .execute()
  const before = await entries(admin, '/audit-logs', as)
  const access = [{ resource: 'repository', action: 'pull' }]
  const robot = (name: string) => ({
    name,
    level: 'project',
    duration: -1,
    permissions: [{ kind: 'project', namespace: 'his', access }],
  })
  const change = async (method: string, path: string, body?: unknown) => {
    const answer = await asAdmin(api + path, { method, ...(body === undefined ? {} : { body }) })
    assert.ok(answer.status < 300, `${method} ${path}: ${JSON.stringify(answer.body)}`)
  }
  await change('POST', '/robots', robot('ci'))
  await change('PUT', '/robots/1', robot('robot$his+ci'))
  await change('PATCH', '/robots/1', { secret: '' })
  await change('DELETE', '/robots/1')
  await change('POST', '/projects/his/metadatas/', { severity: 'low' })
  await change('DELETE', '/projects/his/metadatas/severity')
  await change('PUT', '/projects/his/repositories/app', { description: 'x' })
  const facts = { id: repository.id, name: 'his/app' as RepositoryName, projectId: 2 }
  const actor = { username: 'admin', address: '' }
  await createTags(records).remove({ repository: facts, tag: 'v1' as Tag, actor }, new Date())
  await change('DELETE', '/projects/his/repositories/app')
  await change('PUT', '/users/2/password', { new_password: 'Efgh5678' })
  await change('POST', '/robots', robot('ci'))
  await change('DELETE', '/projects/his')
  const after = await entries(admin, '/audit-logs?page_size=100', as)
  const written = after.slice(0, after.length - before.length).reverse()
  assert.deepEqual(written, [
    'admin create robot robot$his+ci',
    'admin update robot robot$his+ci',
    'admin update robot robot$his+ci',
    'admin delete robot robot$his+ci',
    'admin update project his',
    'admin update project his',
    'admin update repository his/app',
    'admin delete tag his/app:v1',
    'admin delete repository his/app',
    'admin update user alice',
    'admin create robot robot$his+ci',
    'admin delete repository his/half',
    'admin delete robot robot$his+ci',
    'admin delete project his',
  ])
  const types = (await asAdmin(`${api}/auditlog-exts/events`)).body as { event_type: string }[]
  const known = new Set(types.map(({ event_type }) => event_type))
  for (const entry of after) {
    const [, operation, resource] = entry.split(' ')
    assert.ok(known.has(`${operation}_${resource}`), entry)
  }
  for (const type of ['update_edge', 'delete_edge', 'login_user', 'create_artifact']) {
    assert.ok(known.has(type), type)
  }
})

test('log-ins that are refused before a secret is looked at are written down, a flood once', async (t) => {
  const admin = await startAdmin(t, { failures: 3 })
  await admin.asAdmin(`${api}/users`, {
    method: 'POST',
    body: { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' },
  })
  const edgeSecret = 'EdgeSecret1EdgeSecret1'
  const edge = { id: 'e1', name: 'e1', secret: edgeSecret, scope: ['*'], acceptPeople: false }
  await admin.bootstrap.ensureEdge(edge)
  const post = async (form: string, headers: Record<string, string> = {}) => {
    const response = await fetch(new URL('/service/token', admin.server.url), {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded', ...headers },
      body: form,
    })
    return { status: response.status, body: (await response.json()) as Record<string, unknown> }
  }
  const password = 'grant_type=password&username=alice&password=Abcd1234'
  const { body } = await post(`${password}&access_type=offline`)
  await admin.asAdmin(`${api}/users/2/password`, {
    method: 'PUT',
    body: { new_password: 'Efgh5678' },
  })
  const refresh = `grant_type=refresh_token&refresh_token=${String(body['refresh_token'])}`
  assert.equal((await post(refresh)).status, 401)
  assert.equal((await post('grant_type=refresh_token&refresh_token=nonsense')).status, 401)
  const viaEdge = {
    'Outport-Edge-Authorization': formatBasic({ username: 'e1', password: edgeSecret }),
    'Outport-Client-Address': '10.0.0.9',
  }
  assert.equal((await post(password, viaEdge)).status, 403)
  const shown = async () => {
    const answer = await admin.asAdmin(`${api}/auditlog-exts?q=operation=login&page_size=100`)
    return (answer.body as (Entry & { operation_description: string })[]).map(
      ({ username, operation_description }) => [username, operation_description],
    )
  }
  assert.deepEqual(await shown(), [
    ['alice', 'the edge e1 does not accept people'],
    ['', 'the refresh token is not valid any more'],
    ['alice', 'the refresh token is not valid any more'],
  ])
  for (let tries = 0; tries < 10; tries++) {
    assert.equal((await post(`grant_type=refresh_token&refresh_token=${tries}`)).status, 401)
  }
  assert.deepEqual((await shown()).slice(0, 2), [
    ['', 'many more refused log-ins'],
    ['', 'the refresh token is not valid any more'],
  ])
  assert.equal((await shown()).length, 5)
  assert.equal(
    (await post(password.replace('Abcd1234', 'Efgh5678'))).status,
    200,
    'nobody is locked',
  )
})

test('a change that fails leaves no trace of having happened', async (t) => {
  const admin = await createWorld(t)
  const count = async () =>
    Number((await admin.asAdmin(`${api}/audit-logs`)).headers.get('x-total-count'))
  const before = await count()
  await admin.asAdmin(`${api}/projects`, { method: 'POST', body: { project_name: 'his' } })
  await admin.asAdmin(`${api}/projects/his/metadatas/severity`, {
    method: 'PUT',
    body: { severity: 'low' },
  })
  await admin.asAdmin(`${api}/users/99`, { method: 'DELETE' })
  assert.equal(await count(), before)
})
