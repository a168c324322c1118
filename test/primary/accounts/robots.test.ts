import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { startAdmin } from '../../kit/admin.ts'

const robots = '/api/v2.0/robots'

const right = (resource: string, action: string) => ({ resource, action })
const pull = right('repository', 'pull')
const push = right('repository', 'push')

function projectRobot(namespace: string, access: readonly object[] = [pull]) {
  return {
    name: 'ci',
    level: 'project',
    duration: -1,
    permissions: [{ kind: 'project', namespace, access }],
  }
}

/** Projects `lib` and `other`; alice is the admin of `lib`. */
async function createWorld(t: TestContext) {
  const admin = await startAdmin(t)
  const { asAdmin, call } = admin
  for (const project_name of ['lib', 'other']) {
    await asAdmin('/api/v2.0/projects', { method: 'POST', body: { project_name } })
  }
  await asAdmin('/api/v2.0/users', {
    method: 'POST',
    body: { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' },
  })
  await asAdmin('/api/v2.0/projects/lib/members', {
    method: 'POST',
    body: { role_id: 1, member_user: { username: 'alice' } },
  })
  const create = (body: unknown, as = 'alice:Abcd1234') =>
    call(robots, { method: 'POST', as, body })
  const logIn = async (name: string, secret: string) =>
    (await call('/api/v2.0/statistics', { as: `${name}:${secret}` })).status
  return { ...admin, create, logIn }
}

interface Created {
  readonly id: number
  readonly name: string
  readonly secret: string
  readonly expires_at: number
}

test('a project admin makes a robot, whose secret is shown once and renewed', async (t) => {
  const { create, call, logIn, records } = await createWorld(t)
  const answer = await create(projectRobot('lib'))
  assert.equal(answer.status, 201)
  const created = answer.body as Created
  assert.equal(answer.headers.get('location'), `/api/v2.0/robots/${created.id}`)
  assert.equal(created.name, 'robot$lib+ci')
  assert.equal(created.expires_at, -1)
  assert.equal(await logIn('robot$lib+ci', created.secret), 200)

  const as = 'alice:Abcd1234'
  const shown = await call(`${robots}/${created.id}`, { as })
  assert.ok(!JSON.stringify(shown.body).includes(created.secret))
  assert.deepEqual((shown.body as { permissions: unknown }).permissions, [
    { kind: 'project', namespace: 'lib', access: [pull] },
  ])
  const stored = await records.selectFrom('robots').selectAll().execute()
  assert.ok(!JSON.stringify(stored).includes(created.secret))

  const renew = (secret?: string) =>
    call(`${robots}/${created.id}`, { method: 'PATCH', as, body: { secret } })
  const renewed = (await renew('')).body as { secret: string }
  assert.equal(await logIn('robot$lib+ci', created.secret), 401)
  assert.equal(await logIn('robot$lib+ci', renewed.secret), 200)
  assert.deepEqual((await renew('Chosen1234')).body, { secret: '' })
  assert.equal(await logIn('robot$lib+ci', 'Chosen1234'), 200)
  assert.equal((await renew('weak')).status, 400)
  const removed = await call(`${robots}/${created.id}`, { method: 'DELETE', as })
  assert.equal(removed.status, 200)
  assert.equal(await logIn('robot$lib+ci', 'Chosen1234'), 401)
  assert.equal((await create(projectRobot('lib'))).status, 201, 'the name is free again')
})

test('a robot lives 30 days unless told otherwise, and a disabled one cannot log in', async (t) => {
  const { create, call, logIn } = await createWorld(t)
  const robot = (await create({ ...projectRobot('lib'), duration: undefined })).body as Created
  const days = (robot.expires_at - Date.now() / 1000) / 86_400
  assert.ok(days > 29.9 && days <= 30)
  const change = (changes: object) =>
    call(`${robots}/${robot.id}`, {
      method: 'PUT',
      as: 'alice:Abcd1234',
      body: { ...projectRobot('lib'), name: robot.name, duration: 30, ...changes },
    })
  assert.equal((await change({ disable: true })).status, 200)
  assert.equal(await logIn(robot.name, robot.secret), 401)
  assert.equal((await change({ disable: false })).status, 200)
  assert.equal(await logIn(robot.name, robot.secret), 200)
  assert.equal((await change({ name: 'robot$lib+other' })).status, 400)
  assert.equal((await change({ level: 'system' })).status, 400)
  assert.equal((await change({ duration: -1 })).status, 200)
  const shown = await call(`${robots}/${robot.id}`, { as: 'alice:Abcd1234' })
  assert.equal((shown.body as Created).expires_at, -1)
})

test('what cannot be a robot is refused', async (t) => {
  const { create, asAdmin } = await createWorld(t)
  const base = projectRobot('lib')
  const wrong: object[] = [
    { name: 'CI' },
    { name: 'a+b' },
    { name: '' },
    { level: 'galaxy' },
    { duration: -2 },
    { duration: 1e9 },
    { duration: 1.5 },
    { permissions: [] },
    { permissions: [{ kind: 'project', namespace: 'lib', access: [] }] },
    { permissions: [{ kind: 'project', namespace: '*', access: [pull] }] },
    { permissions: [{ kind: 'system', namespace: '/', access: [right('catalog', 'read')] }] },
    { permissions: [...base.permissions, ...base.permissions] },
    { permissions: [{ kind: 'project', namespace: 'lib', access: [right('repository', 'eat')] }] },
    { permissions: [{ kind: 'project', namespace: 'lib', access: [right('user', 'create')] }] },
    { permissions: 'all' },
    { secret: 'weak' },
  ]
  for (const change of wrong) {
    assert.equal((await create({ ...base, ...change })).status, 400, JSON.stringify(change))
  }
  const system = (permissions: unknown) =>
    asAdmin(robots, { method: 'POST', body: { name: 's', level: 'system', permissions } })
  const elsewhere = [{ kind: 'system', namespace: 'lib', access: [right('catalog', 'read')] }]
  assert.equal((await system(elsewhere)).status, 400)
  const missing = [{ kind: 'project', namespace: 'missing', access: [pull] }]
  assert.equal((await system(missing)).status, 404)
  assert.equal((await create(base)).status, 201)
  assert.equal((await create(base)).status, 409)
})

test('nobody gives a robot more than they have', async (t) => {
  const { create, asAdmin, call } = await createWorld(t)
  assert.equal((await create(projectRobot('other'))).status, 403)
  assert.equal((await create(projectRobot('missing'))).status, 403)
  const everywhere = [{ kind: 'project', namespace: '*', access: [pull] }]
  assert.equal((await create({ name: 's', level: 'system', permissions: everywhere })).status, 403)

  // A robot that may make robots makes none that is stronger than itself, and takes none over.
  const manage = ['create', 'read', 'update', 'list'].map((action) => right('robot', action))
  const maker = (await create(projectRobot('lib', [pull, ...manage]))).body as Created
  const as = `${maker.name}:${maker.secret}`
  const made = await create({ ...projectRobot('lib', [pull]), name: 'made' }, as)
  assert.equal(made.status, 201)
  const stronger = { ...projectRobot('lib', [pull, push]), name: 'stronger' }
  assert.equal((await create(stronger, as)).status, 403)
  assert.equal((await create({ ...projectRobot('other'), name: 'away' }, as)).status, 403)
  const strong = (await create(stronger)).body as Created
  const patch = (id: number) =>
    call(`${robots}/${id}`, { method: 'PATCH', as, body: { secret: '' } })
  assert.equal((await patch(strong.id)).status, 403)
  assert.equal((await patch((made.body as Created).id)).status, 200)
  const weaken = { ...projectRobot('lib', [pull]), name: strong.name }
  const weakened = await call(`${robots}/${strong.id}`, { method: 'PUT', as, body: weaken })
  assert.equal(weakened.status, 403)
  const grow = {
    ...projectRobot('lib', [pull, push, ...manage]),
    name: maker.name,
  }
  const grown = await call(`${robots}/${maker.id}`, { method: 'PUT', as, body: grow })
  assert.equal(grown.status, 403)

  // The same over people: a robot that may change users is no way to the administrator.
  const people = await asAdmin(robots, {
    method: 'POST',
    body: {
      name: 'people',
      level: 'system',
      duration: -1,
      permissions: [
        {
          kind: 'system',
          namespace: '/',
          access: ['create', 'read', 'update', 'delete', 'list'].map((action) =>
            right('user', action),
          ),
        },
      ],
    },
  })
  const { name, secret } = people.body as Created
  const users = (path: string, method: string, body: unknown) =>
    call(`/api/v2.0/users${path}`, { method, body, as: `${name}:${secret}` })
  assert.equal((await users('/2/password', 'PUT', { new_password: 'Efgh5678' })).status, 200)
  assert.equal((await users('/1/password', 'PUT', { new_password: 'Efgh5678' })).status, 403)
  assert.equal((await users('/2/sysadmin', 'PUT', { sysadmin_flag: true })).status, 403)
  assert.equal((await users('/1', 'DELETE', {})).status, 403)
})

test('a robot that is denied something anywhere does not give it everywhere', async (t) => {
  const { asAdmin, call } = await createWorld(t)
  const manage = ['create', 'read', 'update'].map((action) => right('robot', action))
  const everywhere = { kind: 'project', namespace: '*', access: [pull, push] }
  const denied = {
    kind: 'project',
    namespace: 'other',
    access: [{ ...pull, effect: 'deny' }],
  }
  const system = (name: string, permissions: readonly object[]) => ({
    name,
    level: 'system',
    duration: -1,
    permissions,
  })
  const make = async (body: object) => {
    const made = await asAdmin(robots, { method: 'POST', body })
    assert.equal(made.status, 201, JSON.stringify(made.body))
    return made.body as Created
  }
  const maker = await make(
    system('maker', [{ kind: 'system', namespace: '/', access: manage }, everywhere, denied]),
  )
  const as = `${maker.name}:${maker.secret}`
  const weak = await make(system('weak', [{ ...everywhere, access: [push] }]))
  const strong = await make(system('strong', [everywhere]))
  const ask = async (method: string, path: string, body: object) =>
    (await call(robots + path, { method, as, body })).status
  assert.equal(await ask('POST', '', system('made', [everywhere])), 403)
  assert.equal(await ask('PUT', `/${weak.id}`, { ...system(weak.name, [everywhere]) }), 403)
  assert.equal(await ask('PATCH', `/${strong.id}`, { secret: '' }), 403)
  const named = (namespace: string) => [{ kind: 'project', namespace, access: [pull] }]
  assert.equal(await ask('POST', '', system('there', named('other'))), 403)
  assert.equal(await ask('POST', '', system('here', named('lib'))), 201)
  const mayPush = [{ ...everywhere, access: [push] }]
  assert.equal(await ask('POST', '', system('pusher', mayPush)), 201)
  assert.equal(await ask('PUT', `/${weak.id}`, system(weak.name, mayPush)), 200)
  assert.equal(await ask('PATCH', `/${weak.id}`, { secret: '' }), 200)
})

test('what a robot may do only because a project is public, it does not give away', async (t) => {
  const { create, asAdmin, call } = await createWorld(t)
  const publish = (isPublic: boolean) =>
    asAdmin('/api/v2.0/projects/lib', {
      method: 'PUT',
      body: { metadata: { public: String(isPublic) } },
    })
  assert.equal((await publish(true)).status, 200)
  const manage = ['create', 'update'].map((action) => right('robot', action))
  const maker = (await create(projectRobot('lib', [push, ...manage]))).body as Created
  const as = `${maker.name}:${maker.secret}`
  const puller = { ...projectRobot('lib', [pull]), name: 'puller' }
  const pusher = { ...projectRobot('lib', [push]), name: 'pusher' }
  assert.equal((await create(puller, as)).status, 403)
  const made = await create(pusher, as)
  assert.equal(made.status, 201)
  const { id, name } = made.body as Created
  const change = { method: 'PUT', as, body: { ...puller, name } }
  assert.equal((await call(`${robots}/${id}`, change)).status, 403)
})

test('a project admin gives a robot every right that is listed for projects', async (t) => {
  const { create, call } = await createWorld(t)
  const listed = await call('/api/v2.0/permissions', { as: 'alice:Abcd1234' })
  const { project } = listed.body as { project: object[] }
  const made = await create(projectRobot('lib', project))
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id, name } = made.body as Created
  const body = { ...projectRobot('lib', project), name }
  const changed = await call(`${robots}/${id}`, { method: 'PUT', as: 'alice:Abcd1234', body })
  assert.equal(changed.status, 200)
  assert.equal((await create({ ...projectRobot('other', project), name: 'b' })).status, 403)
})

test('a robot’s rights end with its project, also when a new one takes the name', async (t) => {
  const { create, asAdmin, call, logIn } = await createWorld(t)
  const robot = (await create(projectRobot('lib', [pull, right('repository', 'list')])))
    .body as Created
  const system = await asAdmin(robots, {
    method: 'POST',
    body: {
      name: 'sys',
      level: 'system',
      duration: -1,
      permissions: [{ kind: 'project', namespace: 'lib', access: [right('repository', 'list')] }],
    },
  })
  const { name, secret } = system.body as Created
  const list = async () =>
    (await call('/api/v2.0/projects/lib/repositories', { as: `${name}:${secret}` })).status
  assert.equal(await list(), 200)
  assert.equal((await asAdmin('/api/v2.0/projects/lib', { method: 'DELETE' })).status, 200)
  assert.equal(await logIn(robot.name, robot.secret), 401)
  await asAdmin('/api/v2.0/projects', { method: 'POST', body: { project_name: 'lib' } })
  assert.equal(await logIn(robot.name, robot.secret), 401)
  assert.equal(await list(), 403)
})

test('robots are listed by owner', async (t) => {
  const { create, asAdmin, call } = await createWorld(t)
  await create(projectRobot('lib'))
  const names = async (query: string) => {
    const answer = await asAdmin(`${robots}?${query}`)
    assert.equal(answer.status, 200, query)
    return (answer.body as Created[]).map(({ name }) => name)
  }
  assert.deepEqual(await names(''), [])
  assert.deepEqual(await names('q=Level=project,ProjectID=1'), ['robot$lib+ci'])
  assert.deepEqual(await names('q=Level=project,ProjectID=1,name=~nothing'), [])
  assert.deepEqual(await names('q=Level=project,ProjectID=2'), [])
  const status = async (query: string, as = 'alice:Abcd1234') =>
    (await call(`${robots}?${query}`, { as })).status
  assert.equal(await status('q=Level=project,ProjectID=1'), 200)
  assert.equal(await status('q=Level=project,ProjectID=2'), 403)
  assert.equal(await status('q=Level=system'), 403)
  assert.equal(await status('q=Level=project'), 400)
  assert.equal(await status('q=Level=galaxy'), 400)
  assert.equal(await status('q=Level=~project,ProjectID=1'), 400)
  assert.equal(await status('q=secret_hash=~a,Level=project,ProjectID=1'), 400)
  assert.equal((await asAdmin(`${robots}?q=Level=project,ProjectID=99999999999`)).status, 404)
})
