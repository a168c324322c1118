import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { EventBody } from '../../../shared/replication/events.ts'
import { startAdmin, type Admin } from '../../kit/admin.ts'

const projects = '/api/v2.0/projects'

async function createUser({ asAdmin }: Admin, username: string): Promise<string> {
  const body = { username, email: `${username}@x.org`, realname: username, password: 'Abcd1234' }
  const answer = await asAdmin('/api/v2.0/users', { method: 'POST', body })
  assert.equal(answer.status, 201)
  return `${username}:Abcd1234`
}

/** A repository as a push leaves it: one manifest, tagged. */
async function createRepository(
  { records }: Admin,
  { projectId, name }: { readonly projectId: number; readonly name: string },
): Promise<number> {
  const repository = await records
    .insertInto('repositories')
    .values({ project_id: projectId, name, description: '' })
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
  return repository.id
}

async function facts({ records }: Admin): Promise<readonly string[]> {
  const rows = await records.selectFrom('outbox').selectAll().orderBy('id').execute()
  return rows.map(({ body }) => JSON.stringify((JSON.parse(body) as EventBody).fact))
}

test('a project is created, shown by id and by name, changed and deleted', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin } = admin
  const created = await asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  assert.equal(created.status, 201)
  assert.equal(created.headers.get('location'), '/api/v2.0/projects/1')
  const named = await asAdmin(projects, {
    method: 'POST',
    body: { project_name: 'named', metadata: { public: 'true', auto_scan: 'true' } },
    headers: { 'X-Resource-Name-In-Location': 'true' },
  })
  assert.equal(named.headers.get('location'), '/api/v2.0/projects/named')

  const shown = (await asAdmin(`${projects}/lib`)).body as Record<string, unknown>
  assert.deepEqual((await asAdmin(`${projects}/1`)).body, shown)
  assert.equal(shown['name'], 'lib')
  assert.equal(shown['owner_name'], 'admin')
  assert.deepEqual(shown['metadata'], { public: 'false' })
  assert.equal(shown['current_user_role_id'], 1)

  const change = { metadata: { public: 'true', severity: 'High' } }
  assert.equal((await asAdmin(`${projects}/lib`, { method: 'PUT', body: change })).status, 200)
  const changed = (await asAdmin(`${projects}/lib`)).body as Record<string, unknown>
  assert.deepEqual(changed['metadata'], { public: 'true', severity: 'high' })

  const deletable = await asAdmin(`${projects}/lib/_deletable`)
  assert.deepEqual(deletable.body, { deletable: true, message: '' })
  assert.equal((await asAdmin(`${projects}/lib`, { method: 'DELETE' })).status, 200)
  assert.equal((await asAdmin(`${projects}/lib`)).status, 404)
  assert.deepEqual(await facts(admin), [
    '{"type":"user","userId":1,"admin":true}',
    '{"type":"project","projectId":1,"name":"lib","public":false}',
    '{"type":"member","projectId":1,"userId":1,"roleId":1}',
    '{"type":"project","projectId":2,"name":"named","public":true}',
    '{"type":"member","projectId":2,"userId":1,"roleId":1}',
    '{"type":"project","projectId":1,"name":"lib","public":true}',
    '{"type":"project-deleted","projectId":1,"name":"lib"}',
  ])
})

test('a project whose name is a number is asked for by X-Is-Resource-Name', async (t) => {
  const { asAdmin } = await startAdmin(t)
  for (const project_name of ['aaa', '1']) {
    assert.equal((await asAdmin(projects, { method: 'POST', body: { project_name } })).status, 201)
  }
  const nameOf = async (path: string, headers: Record<string, string> = {}) =>
    ((await asAdmin(projects + path, { headers })).body as { name?: string }).name
  assert.equal(await nameOf('/1'), 'aaa')
  assert.equal(await nameOf('/1', { 'X-Is-Resource-Name': 'true' }), '1')
  assert.equal(await nameOf('/2', { 'X-Is-Resource-Name': 'true' }), undefined)
})

test('what cannot be a project, or is not there yet, is refused with a reason', async (t) => {
  const { asAdmin } = await startAdmin(t)
  const wrong: [object, RegExp][] = [
    [{ project_name: 'Lib' }, /project_name/],
    [{ project_name: 'a/b' }, /project_name/],
    [{ project_name: '' }, /project_name/],
    [{ project_name: 'a'.repeat(256) }, /project_name/],
    [{}, /project_name/],
    [{ project_name: 7 }, /project_name/],
    [{ project_name: 'a\u0000' }, /project_name/],
    [{ project_name: 'a', storage_limit: 1024 }, /storage_limit/],
    [{ project_name: 'a', storage_limit: 0 }, /storage_limit/],
    [{ project_name: 'a', registry_id: 3 }, /registry_id/],
    [{ project_name: 'a', metadata: { public: 'maybe' } }, /public/],
    [{ project_name: 'a', metadata: { severity: 'huge' } }, /severity/],
    [{ project_name: 'a', metadata: { prevent_vul: 'true' } }, /prevent_vul/],
    [{ project_name: 'a', metadata: { public: true } }, /public/],
    [{ project_name: 'a', cve_allowlist: { items: [{ cve_id: 'CVE-1' }] } }, /cve_allowlist/],
  ]
  for (const [body, reason] of wrong) {
    const answer = await asAdmin(projects, { method: 'POST', body })
    assert.equal(answer.status, 400, JSON.stringify(body))
    assert.match(JSON.stringify(answer.body), reason)
  }
  const harbor = {
    project_name: 'lib',
    public: null,
    metadata: { public: 'false', prevent_vul: 'false', enable_content_trust: null },
    cve_allowlist: { items: [] },
    storage_limit: -1,
    registry_id: null,
  }
  assert.equal((await asAdmin(projects, { method: 'POST', body: harbor })).status, 201)
  assert.equal((await asAdmin(projects, { method: 'POST', body: harbor })).status, 409)
  const rename = { project_name: 'other' }
  assert.equal((await asAdmin(`${projects}/lib`, { method: 'PUT', body: rename })).status, 400)
})

test('people see public projects and their own; a person who creates one is its admin', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin, call } = admin
  const alice = await createUser(admin, 'alice')
  const bob = await createUser(admin, 'bob')
  const create = (as: string, project_name: string, open: boolean) =>
    call(projects, { method: 'POST', as, body: { project_name, public: open } })
  assert.equal((await create(alice, 'mine', false)).status, 201)
  assert.equal((await create(bob, 'his', false)).status, 201)
  assert.equal((await create(bob, 'open', true)).status, 201)
  const names = async (query: string, as?: string) => {
    const answer = await call(`${projects}?${query}`, as === undefined ? {} : { as })
    assert.equal(answer.status, 200)
    const shown = answer.body as { name: string }[]
    assert.equal(answer.headers.get('x-total-count'), String(shown.length))
    return shown.map(({ name }) => name).join(' ')
  }
  assert.equal(await names('', alice), 'mine open')
  // As Harbor's clients spell it.
  for (const yes of ['true', 'True', '1', 'yes'])
    assert.equal(await names(`public=${yes}`, alice), 'open')
  for (const no of ['false', 'False', '0']) assert.equal(await names(`public=${no}`, alice), 'mine')
  for (const what of ['maybe', 'constructor']) {
    const refused = await call(`${projects}?public=${what}`, { as: alice })
    assert.equal(refused.status, 400)
    assert.match(JSON.stringify(refused.body), /querystring\/public must be boolean/)
  }
  assert.equal(await names('owner=alice', alice), 'mine')
  assert.equal(await names('owner=bob', alice), 'open')
  assert.equal(await names('name=PE', alice), 'open')
  assert.equal(await names('q=name=his', alice), '')
  assert.equal(await names('sort=-name', alice), 'open mine')
  assert.equal(await names(''), 'open')
  assert.equal(await names('public=false'), '')
  const all = await asAdmin(projects)
  assert.equal(all.headers.get('x-total-count'), '3')
  const head = async (name: string, as: string) =>
    (await call(`${projects}?project_name=${name}`, { method: 'HEAD', as })).status
  assert.equal(await head('mine', alice), 200)
  assert.equal(await head('his', alice), 403)
  assert.equal(await head('missing', alice), 404)
  assert.equal(await head('no%20name', alice), 404)
  assert.equal(await head('missing', 'admin:Admin1234'), 404)
})

test('settings are read, added, changed and removed one by one', async (t) => {
  const { asAdmin } = await startAdmin(t)
  await asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  const meta = `${projects}/lib/metadatas`
  const ask = async (method: string, path: string, body?: unknown) =>
    (await asAdmin(meta + path, { method, ...(body === undefined ? {} : { body }) })).status
  assert.equal(await ask('POST', '/', { auto_scan: 'true' }), 200)
  assert.equal(await ask('POST', '/', { auto_scan: 'true' }), 409)
  assert.equal(await ask('POST', '/', { auto_scan: 'true', severity: 'low' }), 400)
  assert.equal(await ask('POST', '/', { nonsense: 'true' }), 400)
  assert.equal(await ask('POST', '/', { ['__proto__x']: 'true' }), 400)
  assert.deepEqual((await asAdmin(`${meta}/`)).body, { public: 'false', auto_scan: 'true' })
  assert.deepEqual((await asAdmin(`${meta}/auto_scan`)).body, { auto_scan: 'true' })
  assert.equal(await ask('PUT', '/auto_scan', { auto_scan: 'false' }), 200)
  assert.equal(await ask('PUT', '/auto_scan', { severity: 'low' }), 400)
  assert.equal(await ask('PUT', '/severity', { severity: 'low' }), 404)
  assert.equal(await ask('PUT', '/public', { public: 'true' }), 200)
  assert.equal(await ask('DELETE', '/auto_scan'), 200)
  assert.equal(await ask('DELETE', '/auto_scan'), 404)
  assert.equal(await ask('DELETE', '/public'), 400)
  assert.equal(await ask('GET', '/auto_scan'), 404)
  assert.equal(await ask('GET', '/constructor'), 404)
  const shown = (await asAdmin(`${projects}/lib`)).body as Record<string, unknown>
  assert.deepEqual(shown['metadata'], { public: 'true' })
})

test('members are added by name or id, found by a part of the name, changed and removed', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin, call } = admin
  await asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  const alice = await createUser(admin, 'alice')
  await createUser(admin, 'bob')
  const members = `${projects}/lib/members`
  const add = (body: unknown) => asAdmin(members, { method: 'POST', body })
  const added = await add({ role_id: 2, member_user: { username: 'alice' } })
  assert.equal(added.status, 201)
  assert.equal(added.headers.get('location'), '/api/v2.0/projects/1/members/2')
  assert.equal((await add({ role_id: 2, member_user: { username: 'alice' } })).status, 409)
  assert.equal((await add({ role_id: 3, member_user: { user_id: 3 } })).status, 201)
  assert.equal((await add({ role_id: 6, member_user: { user_id: 3 } })).status, 400)
  assert.equal((await add({ role_id: 1, member_user: {} })).status, 400)
  assert.equal((await add({ role_id: 1, member_user: { username: 'nobody' } })).status, 404)
  assert.equal((await add({ role_id: 1, member_user: { user_id: 99999999999 } })).status, 404)
  assert.equal((await add({ role_id: 1, member_group: { group_name: 'dev' } })).status, 400)

  const found = await asAdmin(`${members}?entityname=LI`)
  assert.deepEqual(found.body, [
    {
      id: 2,
      project_id: 1,
      entity_name: 'alice',
      role_name: 'developer',
      role_id: 2,
      entity_id: 2,
      entity_type: 'u',
    },
  ])
  const page = await asAdmin(`${members}?page_size=2`)
  assert.equal(page.headers.get('x-total-count'), '3')
  assert.match(page.headers.get('link') ?? '', /page=2.*rel="next"/)
  assert.equal((await call(`${projects}/lib`, { as: alice })).status, 200)
  const summary = (await asAdmin(`${projects}/lib/summary`)).body as Record<string, unknown>
  assert.equal(summary['developer_count'], 1)
  assert.equal(summary['guest_count'], 1)

  const role = { method: 'PUT', body: { role_id: 5 } }
  assert.equal((await asAdmin(`${members}/2`, role)).status, 200)
  const limited = await call(`${projects}/lib/summary`, { as: alice })
  assert.equal((limited.body as Record<string, unknown>)['guest_count'], undefined)
  assert.equal((await asAdmin(`${members}/99`, role)).status, 404)
  assert.equal((await asAdmin(`${members}/x`, role)).status, 404)
  assert.equal((await asAdmin(`${members}/2`, { method: 'DELETE' })).status, 200)
  assert.equal((await asAdmin(`${members}/2`, { method: 'DELETE' })).status, 404)
  assert.equal((await call(`${projects}/lib`, { as: alice })).status, 403)
  const log = (await facts(admin)).filter((fact) => /"member.*"userId":2/.test(fact))
  assert.deepEqual(log, [
    '{"type":"member","projectId":1,"userId":2,"roleId":2}',
    '{"type":"member","projectId":1,"userId":2,"roleId":5}',
    '{"type":"member-deleted","projectId":1,"userId":2}',
  ])
})

test('a pushed repository shows, is described and deleted; a slash is encoded twice or once', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin, call, records } = admin
  await asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  const id = await createRepository(admin, { projectId: 1, name: 'lib/team/app' })
  const repositories = `${projects}/lib/repositories`
  const list = await asAdmin(repositories)
  const [shown] = list.body as Record<string, unknown>[]
  assert.equal(shown?.['name'], 'lib/team/app')
  assert.equal(shown?.['artifact_count'], 1)
  assert.equal((await asAdmin('/api/v2.0/repositories')).headers.get('x-total-count'), '1')
  assert.deepEqual((await call('/api/v2.0/repositories')).body, [])
  for (const path of ['/team%252Fapp', '/team%2Fapp']) {
    const got = await asAdmin(repositories + path)
    assert.equal((got.body as { id: number }).id, id, path)
  }
  assert.equal((await asAdmin(`${repositories}/team`)).status, 404)
  assert.equal((await asAdmin(`${repositories}/%25ff`)).status, 404)
  const described = { method: 'PUT', body: { description: 'ours' } }
  assert.equal((await asAdmin(`${repositories}/team%252Fapp`, described)).status, 200)
  const found = await asAdmin(`${repositories}?q=description=ours,name=~TEAM&sort=-update_time`)
  assert.equal(found.headers.get('x-total-count'), '1')
  const search = await asAdmin('/api/v2.0/search?q=team')
  assert.match(JSON.stringify(search.body), /"repository_name":"lib\/team\/app"/)

  assert.deepEqual((await asAdmin(`${projects}/lib/_deletable`)).body, {
    deletable: false,
    message: 'the project contains repositories, can not be deleted',
  })
  assert.equal((await asAdmin(`${projects}/lib`, { method: 'DELETE' })).status, 412)
  const removed = await asAdmin(`${repositories}/team%252Fapp`, { method: 'DELETE' })
  assert.equal(removed.status, 200)
  assert.equal((await asAdmin(`${repositories}/team%252Fapp`)).status, 404)
  const tables = ['repositories', 'manifests', 'tags'] as const
  const deletions = new Set<string | null>()
  for (const table of tables) {
    for (const row of await records.selectFrom(table).select('deletion_id').execute()) {
      deletions.add(row.deletion_id)
    }
  }
  assert.equal(deletions.size, 1, 'what went together bears one deletion')
  assert.ok(!deletions.has(null))
  assert.equal(
    (await facts(admin)).at(-1),
    `{"type":"repository-deleted","projectId":1,"repositoryId":${id},"name":"lib/team/app"}`,
  )
  assert.equal((await asAdmin(`${projects}/lib`, { method: 'DELETE' })).status, 200)
})

test('a repository counts what Harbor counts as artifacts', async (t) => {
  const admin = await startAdmin(t)
  await admin.asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  const repositoryId = await createRepository(admin, { projectId: 1, name: 'lib/app' })
  const insert = async (letter: string, subject: string | null) => {
    const row = await admin.records
      .insertInto('manifests')
      .values({
        repository_id: repositoryId,
        digest: `sha256:${letter.repeat(64)}`,
        media_type: 'application/vnd.oci.image.manifest.v1+json',
        size: 2,
        content: Buffer.from('{}'),
        subject,
      })
      .returning('id')
      .executeTakeFirstOrThrow()
    return row.id
  }
  await insert('b', null)
  const index = await insert('c', null)
  await insert('d', `sha256:${'a'.repeat(64)}`)
  await admin.records
    .insertInto('manifest_children')
    .values({
      manifest_id: index,
      position: 0,
      kind: 'manifest',
      digest: `sha256:${'b'.repeat(64)}`,
      size: 2,
      media_type: 'x',
    })
    .execute()
  const shown = (await admin.asAdmin(`${projects}/lib/repositories/app`)).body
  // The tagged one and the index: not its child, not the signature of the first.
  assert.equal((shown as { artifact_count: number }).artifact_count, 2)
})

test('an upload that never became an image does not keep a project alive', async (t) => {
  const admin = await startAdmin(t)
  await admin.asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } })
  await admin.records
    .insertInto('repositories')
    .values({ project_id: 1, name: 'lib/half', description: '' })
    .execute()
  assert.deepEqual((await admin.asAdmin(`${projects}/lib/repositories`)).body, [])
  assert.equal((await admin.asAdmin(`${projects}/lib`, { method: 'DELETE' })).status, 200)
  const row = await admin.records.selectFrom('repositories').selectAll().executeTakeFirstOrThrow()
  assert.notEqual(row.deleted_at, null)
})

test('a robot finds the names that it has a right to, and no others', async (t) => {
  const admin = await startAdmin(t)
  const { asAdmin, call } = admin
  for (const [index, name] of ['one', 'two', 'open'].entries()) {
    const body = { project_name: name, public: name === 'open' }
    assert.equal((await asAdmin(projects, { method: 'POST', body })).status, 201)
    await createRepository(admin, { projectId: index + 1, name: `${name}/app` })
  }
  const entry = (namespace: string, rights: string, effect = 'allow') => ({
    kind: namespace === '/' ? 'system' : 'project',
    namespace,
    access: rights.split(' ').map((right) => {
      const [resource, action] = right.split(':')
      return { resource, action, effect }
    }),
  })
  // What it was given, and whose projects and repositories it finds besides the public ones.
  const robots: [string, readonly object[], string, string][] = [
    ['project', [entry('one', 'label:read repository:pull')], '', ''],
    ['project', [entry('one', 'project:read')], 'one', ''],
    ['project', [entry('one', 'repository:list')], '', 'one'],
    ['project', [entry('one', 'project:read repository:list')], 'one', 'one'],
    ['system', [entry('one', 'scan:read'), entry('*', 'repository:pull')], '', ''],
    ['system', [entry('one', 'project:read'), entry('two', 'repository:list')], 'one', 'two'],
    ['system', [entry('*', 'project:read')], 'one two', ''],
    ['system', [entry('*', 'project:read'), entry('two', 'project:read', 'deny')], 'one', ''],
    ['system', [entry('*', 'repository:list'), entry('one', 'repository:list', 'deny')], '', 'two'],
    ['system', [entry('one', 'project:read'), entry('*', 'project:read', 'deny')], '', ''],
    ['system', [entry('/', 'project:list')], 'one two', ''],
    ['system', [entry('/', 'project:list'), entry('one', 'repository:pull')], 'one two', ''],
    ['system', [entry('/', 'project:list'), entry('one', 'project:read', 'deny')], 'two', ''],
    ['system', [entry('/', 'catalog:read')], '', ''],
  ]
  for (const [index, [level, permissions, seen, listed]] of robots.entries()) {
    const body = { name: `r${index}`, level, duration: -1, permissions }
    const made = await asAdmin('/api/v2.0/robots', { method: 'POST', body })
    const { name, secret } = made.body as { name: string; secret: string }
    const ask = async (path: string) =>
      (await call(`/api/v2.0${path}`, { as: `${name}:${secret}` })).body
    const names = async (path: string) =>
      ((await ask(path)) as { name: string }[]).map((each) => each.name).sort()
    const split = (text: string, rest: string) =>
      [...text.split(' ').filter((part) => part !== ''), rest].sort()
    const all = JSON.stringify(permissions)
    const expectedProjects = split(seen, 'open')
    const expectedRepositories = split(listed, 'open').map((project) => `${project}/app`)
    assert.deepEqual(await names('/projects'), expectedProjects, all)
    assert.deepEqual(await names('/repositories'), expectedRepositories, all)
    const found = (await ask('/search?q=')) as {
      project: { name: string }[]
      repository: { repository_name: string }[]
    }
    assert.deepEqual(found.project.map((each) => each.name).sort(), expectedProjects, all)
    assert.deepEqual(
      found.repository.map((each) => each.repository_name).sort(),
      expectedRepositories,
      all,
    )
    const statistics = (await ask('/statistics')) as Record<string, number>
    assert.deepEqual(
      [
        statistics['private_project_count'],
        statistics['private_repo_count'],
        statistics['public_project_count'],
        statistics['public_repo_count'],
      ],
      [expectedProjects.length - 1, expectedRepositories.length - 1, 1, 1],
      all,
    )
  }
})

test('two who create one project at once: one does, the other is told', async (t) => {
  const admin = await startAdmin(t)
  const answers = await Promise.all(
    Array.from({ length: 6 }, () =>
      admin.asAdmin(projects, { method: 'POST', body: { project_name: 'lib' } }),
    ),
  )
  const statuses = answers.map(({ status }) => status).sort()
  assert.deepEqual(statuses, [201, 409, 409, 409, 409, 409])
})

test('a deletion that meets a new member leaves one of the two done, and no fault', async (t) => {
  const admin = await startAdmin(t)
  await createUser(admin, 'alice')
  await race(admin, t)
})

async function race(admin: Admin, _t: TestContext): Promise<void> {
  for (let round = 0; round < 5; round++) {
    const name = `lib${round}`
    await admin.asAdmin(projects, { method: 'POST', body: { project_name: name } })
    const [removed, added] = await Promise.all([
      admin.asAdmin(`${projects}/${name}`, { method: 'DELETE' }),
      admin.asAdmin(`${projects}/${name}/members`, {
        method: 'POST',
        body: { role_id: 2, member_user: { username: 'alice' } },
      }),
    ])
    assert.equal(removed.status, 200)
    assert.ok([201, 404].includes(added.status), String(added.status))
  }
}
