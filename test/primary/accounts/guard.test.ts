import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import Fastify from 'fastify'
import { addRooms, type Rooms } from '../../../primary/server.ts'
import { parseDigest } from '../../../shared/oci/digest.ts'
import {
  adminPassword,
  startAdmin,
  type Admin,
  type AdminAnswer,
  type AdminCall,
} from '../../kit/admin.ts'

const prefix = '/api/v2.0'
/** Of every app. */
const appDigest = `sha256:${'a'.repeat(64)}`

/**
 * Who asks: members of the project `own`, its robot, and others. `manager` is a system robot that may manage members
 * and robots everywhere; `denied` one that may read everywhere but in `own`.
 */
const callers = [
  'anonymous',
  'outsider',
  'limitedGuest',
  'guest',
  'developer',
  'maintainer',
  'projectAdmin',
  'otherAdmin',
  'robot',
  'manager',
  'denied',
  'sysadmin',
] as const
type Name = (typeof callers)[number]
const robotNames: readonly Name[] = ['robot', 'manager', 'denied']

const nobodyElse = 'projectAdmin sysadmin'
const managers = `manager ${nobodyElse}`
const maintainers = 'maintainer projectAdmin sysadmin'
const developers = `developer ${maintainers}`
const guests = `guest ${developers}`
const members = `limitedGuest ${guests}`
const readers = `robot manager ${members}`
const accounts = `outsider otherAdmin robot manager denied ${members}`
const everybody = `anonymous ${accounts}`
/** The robots have rights over repositories alone. */
const artifactReaders = members

const artifactsRoute = '/projects/:project_name/repositories/:repository_name/artifacts'
const ownArtifact = `/projects/{own}/repositories/app/artifacts/${appDigest}`

interface Row extends AdminCall {
  /** `{own}`, `{member}`, `{robot}`… are filled in; what begins with `{spare` is made anew for each call. */
  readonly path: string
  /** Who may, by Harbor's table; the others are refused. */
  readonly may: string
  /** What those who may are answered; any success if left out. */
  readonly answers?: readonly number[]
  /** What people are answered for a project that they have nothing to do with, or that is missing; refused if left out. */
  readonly foreign?: { readonly status: number; readonly body: unknown }
  readonly missing?: { readonly status: number }
}

/** What each route is called with, and who may. A row answers for the private project `own`. */
const table: Readonly<Record<string, readonly Row[]>> = {
  'GET /projects': [{ path: '/projects', may: everybody }],
  'HEAD /projects': [
    { path: '/projects?project_name={own}', may: readers, missing: { status: 404 } },
  ],
  'POST /projects': [
    {
      path: '/projects',
      may: without('anonymous robot manager denied'),
      body: { project_name: '{name}' },
    },
  ],
  'GET /projects/:project_name_or_id': [
    { path: '/projects/{own}', may: readers },
    { path: '/projects/{ownId}', may: readers },
  ],
  'PUT /projects/:project_name_or_id': [
    { path: '/projects/{own}', may: nobodyElse, body: { metadata: { auto_scan: 'true' } } },
  ],
  'DELETE /projects/:project_name_or_id': [
    { path: '/projects/{own}', may: nobodyElse, answers: [412] },
  ],
  'GET /projects/:project_name_or_id/_deletable': [
    { path: '/projects/{own}/_deletable', may: nobodyElse },
  ],
  'GET /projects/:project_name_or_id/summary': [{ path: '/projects/{own}/summary', may: readers }],
  ...metadataRows('/metadatas/'),
  ...metadataRows('/metadatas'),
  'GET /projects/:project_name_or_id/metadatas/:meta_name': [
    { path: '/projects/{own}/metadatas/public', may: maintainers },
  ],
  'PUT /projects/:project_name_or_id/metadatas/:meta_name': [
    { path: '/projects/{own}/metadatas/auto_scan', may: nobodyElse, body: { auto_scan: 'true' } },
  ],
  'DELETE /projects/:project_name_or_id/metadatas/:meta_name': [
    { path: '/projects/{own}/metadatas/auto_scan', may: nobodyElse, answers: [200, 404] },
  ],
  'GET /projects/:project_name_or_id/members': [
    { path: '/projects/{own}/members', may: `manager ${guests}` },
  ],
  'POST /projects/:project_name_or_id/members': [
    {
      path: '/projects/{own}/members',
      may: managers,
      body: { role_id: 3, member_user: { username: '{spareUserName}' } },
    },
  ],
  'GET /projects/:project_name_or_id/members/:mid': [
    { path: '/projects/{own}/members/{member}', may: `manager ${guests}` },
  ],
  'PUT /projects/:project_name_or_id/members/:mid': [
    { path: '/projects/{own}/members/{spareMember}', may: managers, body: { role_id: 4 } },
  ],
  'DELETE /projects/:project_name_or_id/members/:mid': [
    { path: '/projects/{own}/members/{spareMember}', may: managers },
  ],
  'GET /projects/:project_name/repositories': [
    { path: '/projects/{own}/repositories', may: readers },
  ],
  'GET /projects/:project_name/repositories/:repository_name': [
    { path: '/projects/{own}/repositories/app', may: readers },
  ],
  'PUT /projects/:project_name/repositories/:repository_name': [
    {
      path: '/projects/{own}/repositories/app',
      may: developers,
      body: { description: 'an app' },
    },
  ],
  'DELETE /projects/:project_name/repositories/:repository_name': [
    { path: '/projects/{own}/repositories/{spareRepository}', may: maintainers },
  ],
  'GET /repositories': [{ path: '/repositories', may: everybody }],
  [`GET ${artifactsRoute}`]: [
    { path: '/projects/{own}/repositories/app/artifacts', may: artifactReaders },
  ],
  [`GET ${artifactsRoute}/:reference`]: [{ path: ownArtifact, may: artifactReaders }],
  [`POST ${artifactsRoute}/:reference/labels`]: [
    { path: `${ownArtifact}/labels`, may: developers, body: { id: '{spareLabel}' } },
  ],
  [`DELETE ${artifactsRoute}/:reference/labels/:label_id`]: [
    { path: `${ownArtifact}/labels/{spareBornLabel}`, may: developers },
  ],
  'GET /labels': [
    { path: '/labels?scope=g', may: everybody },
    { path: '/labels?scope=p&project_id={ownId}', may: guests },
  ],
  'POST /labels': [
    { path: '/labels', may: 'sysadmin', body: { name: '{name}', scope: 'g' } },
    {
      path: '/labels',
      may: maintainers,
      body: { name: '{name}', scope: 'p', project_id: '{ownId}' },
    },
  ],
  'GET /labels/:label_id': [
    { path: '/labels/{label}', may: guests },
    { path: '/labels/{globalLabel}', may: 'sysadmin' },
    { path: '/labels/999999', may: 'sysadmin', answers: [404] },
  ],
  'PUT /labels/:label_id': [
    { path: '/labels/{label}', may: maintainers, body: { name: '{name}' } },
    { path: '/labels/{globalLabel}', may: 'sysadmin', body: { name: '{name}' } },
  ],
  'DELETE /labels/:label_id': [
    { path: '/labels/{spareLabel}', may: maintainers },
    { path: '/labels/{spareGlobalLabel}', may: 'sysadmin' },
    { path: '/labels/999999', may: 'sysadmin', answers: [404] },
  ],
  'GET /projects/:project_name/logs': [{ path: '/projects/{own}/logs', may: nobodyElse }],
  'GET /projects/:project_name/auditlog-exts': [
    { path: '/projects/{own}/auditlog-exts', may: nobodyElse },
  ],
  'GET /audit-logs': [{ path: '/audit-logs', may: accounts }],
  'GET /auditlog-exts': [{ path: '/auditlog-exts', may: accounts }],
  'GET /auditlog-exts/events': [{ path: '/auditlog-exts/events', may: accounts }],
  'GET /users': [{ path: '/users', may: 'sysadmin' }],
  'POST /users': [
    {
      path: '/users',
      may: 'sysadmin',
      body: {
        username: '{name}',
        email: '{name}@x.org',
        realname: '{name}',
        password: 'Abcd1234',
      },
    },
  ],
  // Robots are no users.
  'GET /users/current': [{ path: '/users/current', may: accounts, answers: [200, 412] }],
  'GET /users/current/permissions': [
    {
      path: '/users/current/permissions?scope=/project/{ownId}',
      may: accounts,
      foreign: { status: 200, body: [] },
      missing: { status: 200 },
    },
  ],
  'GET /users/search': [{ path: '/users/search?username=a', may: accounts }],
  'GET /users/:user_id': [
    { path: '/users/{guestId}', may: 'guest sysadmin' },
    { path: '/users/999999', may: 'sysadmin', answers: [404] },
  ],
  'PUT /users/:user_id': [
    {
      path: '/users/{guestId}',
      may: 'guest sysadmin',
      body: { email: 'guest@x.org', realname: 'guest' },
    },
  ],
  'DELETE /users/:user_id': [{ path: '/users/{spareUser}', may: 'sysadmin' }],
  'PUT /users/:user_id/sysadmin': [
    { path: '/users/{spareUser}/sysadmin', may: 'sysadmin', body: { sysadmin_flag: true } },
  ],
  // The same password again is refused; another would shut the guest out.
  'PUT /users/:user_id/password': [
    {
      path: '/users/{guestId}/password',
      may: 'guest sysadmin',
      body: { old_password: 'Abcd1234', new_password: 'Abcd1234' },
      answers: [400],
    },
    { path: '/users/{spareUser}/password', may: 'sysadmin', body: { new_password: 'Efgh5678' } },
  ],
  'PUT /users/:user_id/cli_secret': [
    {
      path: '/users/{guestId}/cli_secret',
      may: 'guest sysadmin',
      body: { secret: 'Efgh5678' },
      answers: [412],
    },
  ],
  'GET /robots': [
    { path: '/robots', may: 'manager sysadmin' },
    { path: '/robots?q=Level=project,ProjectID={ownId}', may: `manager ${guests}` },
  ],
  'POST /robots': [
    { path: '/robots', may: 'manager sysadmin', body: newRobot('{name}', 'system', '*') },
    { path: '/robots', may: managers, body: newRobot('{name}', 'project', '{own}') },
  ],
  'GET /robots/:robot_id': [
    { path: '/robots/{robot}', may: `manager ${guests}` },
    { path: '/robots/{systemRobot}', may: 'manager sysadmin' },
    { path: '/robots/999999', may: 'manager sysadmin', answers: [404] },
  ],
  'PUT /robots/:robot_id': [
    {
      path: '/robots/{spareRobot}',
      may: managers,
      body: newRobot('robot${own}+{spareRobotName}', 'project', '{own}'),
    },
    {
      path: '/robots/{spareSystemRobot}',
      may: 'manager sysadmin',
      body: newRobot('robot${spareRobotName}', 'system', '*'),
    },
  ],
  'PATCH /robots/:robot_id': [
    { path: '/robots/{spareRobot}', may: managers, body: { secret: '' } },
    { path: '/robots/{spareSystemRobot}', may: 'manager sysadmin', body: { secret: '' } },
  ],
  'DELETE /robots/:robot_id': [
    { path: '/robots/{spareRobot}', may: managers },
    { path: '/robots/{spareSystemRobot}', may: 'manager sysadmin' },
    { path: '/robots/999999', may: 'manager sysadmin', answers: [404] },
  ],
  'GET /edges': [{ path: '/edges', may: 'sysadmin' }],
  'POST /edges/join': [
    {
      path: '/edges/join',
      may: everybody,
      body: { token: 'a.b', name: 'e', publicKey: 'none', proof: '' },
      answers: [400],
    },
  ],
  'POST /edges/renew': [
    {
      path: '/edges/renew',
      may: everybody,
      body: { id: 'none', secret: 'none', publicKey: 'none', proof: '' },
      answers: [400],
    },
  ],
  'GET /edges/tokens': [{ path: '/edges/tokens', may: 'sysadmin' }],
  'POST /edges/tokens': [
    {
      path: '/edges/tokens',
      may: 'sysadmin',
      body: { name: 'e', scope: ['no-such-project'] },
      answers: [400],
    },
  ],
  'DELETE /edges/tokens/:token_id': [
    { path: '/edges/tokens/none', may: 'sysadmin', answers: [404] },
  ],
  'GET /edges/:edge_id': [{ path: '/edges/none', may: 'sysadmin', answers: [404] }],
  'GET /edges/:edge_id/exposure': [
    { path: '/edges/none/exposure', may: 'sysadmin', answers: [404] },
  ],
  'PUT /edges/:edge_id': [{ path: '/edges/none', may: 'sysadmin', body: {}, answers: [404] }],
  'POST /edges/:edge_id/suspend': [
    { path: '/edges/none/suspend', may: 'sysadmin', answers: [404] },
  ],
  'POST /edges/:edge_id/drain': [{ path: '/edges/none/drain', may: 'sysadmin', answers: [404] }],
  'POST /edges/:edge_id/forget': [{ path: '/edges/none/forget', may: 'sysadmin', answers: [404] }],
  'POST /edges/:edge_id/resume': [{ path: '/edges/none/resume', may: 'sysadmin', answers: [404] }],
  'DELETE /edges/:edge_id': [{ path: '/edges/none', may: 'sysadmin', answers: [404] }],
  'GET /keys': [{ path: '/keys', may: 'sysadmin' }],
  'POST /keys/rotate': [
    { path: '/keys/rotate', may: 'sysadmin', body: { purpose: 'edge-ca' }, answers: [412] },
  ],
  'POST /keys/root': [
    {
      path: '/keys/root',
      may: 'sysadmin',
      body: { jwk: { kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA' } },
      answers: [400],
    },
  ],
  'GET /keys/pending': [
    { path: '/keys/pending', may: 'sysadmin' },
    { path: '/keys/pending?epoch=next', may: 'sysadmin' },
  ],
  'POST /keys/lists': [
    {
      path: '/keys/lists',
      may: 'sysadmin',
      body: { payload_type: 'none', payload: '', signatures: [{ keyid: 'none', sig: '' }] },
      answers: [409],
    },
  ],
  'GET /keys/epoch': [{ path: '/keys/epoch', may: 'sysadmin' }],
  'POST /keys/epoch': [{ path: '/keys/epoch', may: 'sysadmin', body: {}, answers: [409] }],
  'DELETE /keys/:key_id': [{ path: '/keys/none', may: 'sysadmin', answers: [404] }],
  'GET /registries': [{ path: '/registries', may: 'sysadmin' }],
  'POST /registries': [
    {
      path: '/registries',
      may: 'sysadmin',
      body: { name: '{name}', type: 'outport-edges', selector: {} },
    },
  ],
  'POST /registries/ping': [
    {
      path: '/registries/ping',
      may: 'sysadmin',
      body: { type: 'outport-edges', selector: {} },
    },
  ],
  'GET /registries/:id': [{ path: '/registries/999', may: 'sysadmin', answers: [404] }],
  'PUT /registries/:id': [{ path: '/registries/999', may: 'sysadmin', body: {}, answers: [404] }],
  'DELETE /registries/:id': [{ path: '/registries/999', may: 'sysadmin', answers: [404] }],
  'GET /registries/:id/info': [{ path: '/registries/0/info', may: 'sysadmin' }],
  'GET /registries/:id/edges': [{ path: '/registries/999/edges', may: 'sysadmin', answers: [404] }],
  'GET /replication/adapters': [{ path: '/replication/adapters', may: 'sysadmin' }],
  'GET /replication/adapterinfos': [{ path: '/replication/adapterinfos', may: 'sysadmin' }],
  'GET /replication/policies': [{ path: '/replication/policies', may: 'sysadmin' }],
  'POST /replication/policies': [
    {
      path: '/replication/policies',
      may: 'sysadmin',
      body: { name: 'rule', dest_registry: { id: 999 } },
      answers: [400],
    },
  ],
  'GET /replication/policies/:id': [
    { path: '/replication/policies/999', may: 'sysadmin', answers: [404] },
  ],
  'PUT /replication/policies/:id': [
    {
      path: '/replication/policies/999',
      may: 'sysadmin',
      body: { name: 'rule', dest_registry: { id: 999 } },
      answers: [404],
    },
  ],
  'DELETE /replication/policies/:id': [
    { path: '/replication/policies/999', may: 'sysadmin', answers: [404] },
  ],
  'GET /preheat': [{ path: '/preheat', may: 'sysadmin' }],
  'POST /preheat': [
    {
      path: '/preheat',
      may: nobodyElse,
      body: { image: '{own}/none:v1', edges: ['nowhere'] },
      answers: [404],
    },
  ],
  'GET /preheat/:id': [{ path: '/preheat/999', may: 'sysadmin', answers: [404] }],
  'PUT /preheat/:id': [
    { path: '/preheat/999', may: 'sysadmin', body: { status: 'Stopped' }, answers: [404] },
  ],
  'GET /replication/executions': [{ path: '/replication/executions', may: 'sysadmin' }],
  'POST /replication/executions': [
    {
      path: '/replication/executions',
      may: 'sysadmin',
      body: { policy_id: 999 },
      answers: [404],
    },
  ],
  'GET /replication/executions/:id': [
    { path: '/replication/executions/999', may: 'sysadmin', answers: [404] },
  ],
  'PUT /replication/executions/:id': [
    { path: '/replication/executions/999', may: 'sysadmin', answers: [404] },
  ],
  'GET /replication/executions/:id/tasks': [
    { path: '/replication/executions/999/tasks', may: 'sysadmin', answers: [404] },
  ],
  'GET /replication/executions/:id/tasks/:task_id/log': [
    { path: '/replication/executions/999/tasks/1/log', may: 'sysadmin', answers: [404] },
  ],
  'GET /ping': [{ path: '/ping', may: everybody }],
  'GET /health': [{ path: '/health', may: everybody }],
  'GET /openapi.json': [{ path: '/openapi.json', may: everybody }],
  'GET /systeminfo': [{ path: '/systeminfo', may: everybody }],
  'GET /systeminfo/volumes': [{ path: '/systeminfo/volumes', may: 'sysadmin' }],
  'GET /systeminfo/getcert': [{ path: '/systeminfo/getcert', may: everybody, answers: [404] }],
  'GET /configurations': [{ path: '/configurations', may: 'sysadmin' }],
  'GET /search': [{ path: '/search?q=a', may: everybody }],
  'GET /statistics': [{ path: '/statistics', may: accounts }],
  'GET /permissions': [{ path: '/permissions', may: accounts }],
}

/** Outside the admin API, and so not in the table: what is open, and what asks for its right to a repository. */
const elsewhere = [
  '/api/version',
  '/service/edges',
  '/service/jwks',
  '/service/token',
  '/service/trust',
  '/v2',
  '/v2/*',
]

function metadataRows(path: string): Readonly<Record<string, readonly Row[]>> {
  const route = `/projects/:project_name_or_id${path}`
  const called = `/projects/{own}${path}`
  return {
    [`GET ${route}`]: [{ path: called, may: maintainers }],
    [`POST ${route}`]: [
      { path: called, may: nobodyElse, body: { severity: 'low' }, answers: [200, 409] },
    ],
  }
}

function newRobot(name: string, level: string, namespace: string) {
  const access = [{ resource: 'repository', action: 'pull' }]
  return { name, level, duration: -1, permissions: [{ kind: 'project', namespace, access }] }
}

function without(names: string): string {
  return callers.filter((name) => !names.split(' ').includes(name)).join(' ')
}

const roleIds: Partial<Record<Name, number>> = {
  projectAdmin: 1,
  developer: 2,
  guest: 3,
  maintainer: 4,
  limitedGuest: 5,
}

interface World {
  readonly admin: Admin
  readonly logins: Readonly<Record<Name, string | undefined>>
  readonly ids: Readonly<Record<string, number>>
}

const readRights = ['project:read', 'repository:list', 'repository:read', 'repository:pull']
const manageRights = (resource: string) =>
  ['create', 'read', 'update', 'delete', 'list'].map((action) => `${resource}:${action}`)

function grant(namespace: string, rights: readonly string[], effect = 'allow') {
  const access = rights.map((right) => {
    const [resource, action] = right.split(':')
    return { resource, action, effect }
  })
  return { kind: namespace === '/' ? 'system' : 'project', namespace, access }
}

/** Two private projects, `own` and `other`, each with an app, a member and a robot; and two robots of the system. */
async function createWorld(t: TestContext): Promise<World> {
  const admin = await startAdmin(t)
  const { asAdmin } = admin
  const create = async (path: string, body: unknown) => {
    const answer = await asAdmin(prefix + path, { method: 'POST', body })
    assert.equal(answer.status, 201, JSON.stringify(answer.body))
    return answer
  }
  const ids: Record<string, number> = {}
  ids['ownId'] = (await create('/projects', { project_name: 'own' })).id
  ids['otherId'] = (await create('/projects', { project_name: 'other' })).id
  const logins: Partial<Record<Name, string>> = { sysadmin: `admin:${adminPassword}` }
  for (const name of callers) {
    if (name === 'anonymous' || name === 'sysadmin' || robotNames.includes(name)) continue
    const user = await create('/users', {
      username: name,
      email: `${name}@x.org`,
      realname: name,
      password: 'Abcd1234',
    })
    ids[`${name}Id`] = user.id
    logins[name] = `${name}:Abcd1234`
    const role = roleIds[name]
    if (role !== undefined) {
      const member = { role_id: role, member_user: { user_id: user.id } }
      ids[`${name}Member`] = (await create('/projects/own/members', member)).id
    }
  }
  const other = { role_id: 1, member_user: { username: 'otherAdmin' } }
  ids['otherMember'] = (await create('/projects/other/members', other)).id
  ids['member'] = ids['guestMember'] ?? 0
  for (const project of ['own', 'other'] as const) {
    await createApp(admin, { projectId: ids[`${project}Id`] ?? 0, name: `${project}/app` })
    const label = { name: 'label', scope: 'p', project_id: ids[`${project}Id`] }
    ids[project === 'own' ? 'label' : 'otherLabel'] = (await create('/labels', label)).id
  }
  ids['globalLabel'] = (await create('/labels', { name: 'label', scope: 'g' })).id
  const robotOf = async (name: string, level: string, permissions: readonly object[]) => {
    const made = await create('/robots', { name, level, duration: -1, permissions })
    const { name: username, secret } = made.body as { name: string; secret: string }
    return { id: made.id, login: `${username}:${secret}` }
  }
  const robot = await robotOf('node', 'project', [grant('own', readRights)])
  const manager = await robotOf('manager', 'system', [
    grant('/', manageRights('robot')),
    grant('*', [...readRights, ...manageRights('member'), ...manageRights('robot')]),
  ])
  const denied = await robotOf('denied', 'system', [
    grant('*', [...readRights, 'member:list']),
    grant('own', [...readRights, 'member:list'], 'deny'),
  ])
  logins.robot = robot.login
  logins.manager = manager.login
  logins.denied = denied.login
  ids['robot'] = robot.id
  ids['systemRobot'] = denied.id
  ids['otherRobot'] = (await robotOf('node', 'project', [grant('other', readRights)])).id
  return { admin, logins: { anonymous: undefined, ...logins } as World['logins'], ids }
}

async function createApp(
  { records }: Admin,
  { projectId, name }: { projectId: number; name: string },
): Promise<void> {
  const repository = await records
    .insertInto('repositories')
    .values({ project_id: projectId, name, description: '' })
    .returning('id')
    .executeTakeFirstOrThrow()
  await records
    .insertInto('manifests')
    .values({
      repository_id: repository.id,
      digest: appDigest,
      media_type: 'application/vnd.oci.image.manifest.v1+json',
      size: 2,
      content: Buffer.from('{}'),
    })
    .execute()
}

let names = 0

/** Makes what the row changes for good, in the project `own`, so that every call finds one. */
async function createSpares(
  { admin, ids }: World,
  text: string,
): Promise<Readonly<Record<string, string>>> {
  names += 1
  const name = `spare${names}`
  const actor = { username: '', address: '' }
  const now = new Date()
  const projectId = ids['ownId'] ?? 0
  const user = async () => {
    const profile = { username: name, email: `${name}@x.org`, realname: name, comment: '' }
    return admin.accounts.create({ ...profile, passwordHash: '$sha256$a$b' }, actor, now)
  }
  const robot = async (fullName: string, owner: number | undefined) => {
    const made = await admin.robots.create(
      {
        name: fullName,
        description: '',
        projectId: owner,
        disabled: false,
        durationDays: -1,
        expiresAt: undefined,
        permissions: [],
        creator: { kind: 'system', id: undefined },
        secretHash: '',
      },
      { actor, now },
    )
    return made.id
  }
  if (text.includes('{spareUserName}')) await user()
  if (text.includes('{spareUser}')) return { spareUser: String(await user()) }
  if (text.includes('{spareMember}')) {
    const project = { id: projectId, name: 'own', public: false }
    const member = { id: await user(), username: name }
    const id = await admin.members.create(member, 3, { project, actor, now })
    return { spareMember: String(id) }
  }
  if (text.includes('{spareRobot}')) {
    const id = await robot(`robot$own+${name}`, projectId)
    return { spareRobot: String(id), spareRobotName: name }
  }
  if (text.includes('{spareSystemRobot}')) {
    const id = await robot(`robot$${name}`, undefined)
    return { spareSystemRobot: String(id), spareRobotName: name }
  }
  const label = (owner: number | undefined) =>
    admin.labels.create({ name, description: '', color: '', projectId: owner }, { actor, now })
  if (text.includes('{spareLabel}')) return { spareLabel: String(await label(projectId)) }
  if (text.includes('{spareGlobalLabel}')) {
    return { spareGlobalLabel: String(await label(undefined)) }
  }
  if (text.includes('{spareBornLabel}')) {
    const id = await label(projectId)
    const repository = await admin.catalog.get(projectId, 'own/app')
    const parts = { withTags: false, withLabels: false }
    const reference = { kind: 'digest', digest: parseDigest(appDigest) } as const
    const artifact = repository && (await admin.artifacts.get(repository.id, reference, parts))
    assert.ok(artifact)
    await admin.labels.attach(id, { artifact, repository }, { actor, now })
    return { spareBornLabel: String(id) }
  }
  if (text.includes('{spareRepository}')) await createApp(admin, { projectId, name: `own/${name}` })
  return { spareRepository: name, spareUserName: name }
}

interface Question {
  readonly method: string
  readonly row: Row
  /** Instead of what is the project's own. */
  readonly swap?: Readonly<Record<string, string>>
}

async function callAs(
  world: World,
  name: Name,
  { method, row, swap }: Question,
): Promise<AdminAnswer> {
  const { admin, logins, ids } = world
  const json = row.body === undefined ? '' : JSON.stringify(row.body)
  // Ids are numbers in bodies.
  const body = json.replaceAll(/"\{(ownId|spareLabel)\}"/g, '{$1}')
  const spares = swap ?? (await createSpares(world, row.path + body))
  names += 1
  const values: Readonly<Record<string, string>> = { own: 'own', name: `n${names}`, ...spares }
  const fill = (text: string) =>
    text.replaceAll(/\{([A-Za-z]+)\}/g, (_, key: string) => values[key] ?? String(ids[key] ?? '?'))
  const login = logins[name]
  const answer = await admin.call(prefix + fill(row.path), {
    method,
    ...(body === '' ? {} : { body: fill(body) }),
    ...(login === undefined ? {} : { as: login }),
  })
  assert.ok(answer.status < 500, `${method} ${row.path} as ${name}: ${answer.status}`)
  return answer
}

function refusalOf(name: Name): number {
  return name === 'anonymous' ? 401 : 403
}

const rowsOf = Object.entries(table).flatMap(([route, rows]) =>
  rows.map((row) => ({ route, method: route.split(' ')[0] ?? '', row })),
)

test("every route lets in whom Harbor's table lets in, and they can do it", async (t) => {
  const world = await createWorld(t)
  const { routes } = world.admin
  const isListed = (route: string) => route.includes(` ${prefix}/`)
  assert.deepEqual(
    routes
      .filter(isListed)
      .map((route) => route.replace(prefix, ''))
      .sort(),
    Object.keys(table).sort(),
    'the table has every route',
  )
  const others = routes.filter((route) => !isListed(route)).map((route) => route.split(' ')[1])
  assert.deepEqual([...new Set(others)].sort(), elsewhere)
  const mistakes: string[] = []
  for (const { route, method, row } of rowsOf) {
    for (const name of callers) {
      const { status, body } = await callAs(world, name, { method, row })
      const may = row.may.split(' ').includes(name)
      const isDone = row.answers?.includes(status) ?? (status >= 200 && status < 300)
      if (may ? isDone : status === refusalOf(name)) continue
      mistakes.push(`${route} ${row.path} as ${name}: ${status} ${JSON.stringify(body)}`)
    }
  }
  assert.deepEqual(mistakes, [])
})

test('nobody gets into a foreign project by its name or its ids, in path, query or body', async (t) => {
  const world = await createWorld(t)
  const mistakes: string[] = []
  for (const { method, row } of rowsOf) {
    const text = row.path + JSON.stringify(row.body ?? '')
    if (!/\{(?:own|ownId|robot|spareRobot|label|spareLabel)\}/.test(text)) continue
    for (const { swap, names: strangers, isMissing } of foreignPlaces(world.ids)) {
      for (const name of strangers) {
        const { status, body } = await callAs(world, name, { method, row, swap })
        const isPerson = name !== 'anonymous' && !robotNames.includes(name)
        const special = isMissing ? row.missing : row.foreign
        const isRight =
          special !== undefined && (isPerson || row.foreign !== undefined) && name !== 'anonymous'
            ? status === special.status
            : status === refusalOf(name)
        const shown = row.foreign !== undefined && status === 200 ? JSON.stringify(body) : '[]'
        if (isRight && shown === JSON.stringify(row.foreign?.body ?? [])) continue
        mistakes.push(`${method} ${row.path} in ${swap['own']} as ${name}: ${status} ${shown}`)
      }
    }
  }
  assert.deepEqual(mistakes, [])
  // What is denied in one project is not denied in others.
  for (const name of ['manager', 'denied'] as const) {
    const row = { path: '/projects/{own}', may: '' }
    const answer = await callAs(world, name, { method: 'GET', row, swap: { own: 'other' } })
    assert.equal(answer.status, 200, name)
  }
})

interface Place {
  readonly swap: Readonly<Record<string, string>>
  readonly names: readonly Name[]
  readonly isMissing: boolean
}

/** Projects that are not theirs, by name and by id, and who is sent there. */
function foreignPlaces(ids: Readonly<Record<string, number>>): readonly Place[] {
  const insiders: readonly Name[] = ['sysadmin', 'otherAdmin', 'manager', 'denied']
  const foreigners = callers.filter((name) => !insiders.includes(name))
  const some: readonly Name[] = ['anonymous', 'projectAdmin', 'robot']
  const ofOther = {
    ownId: String(ids['otherId']),
    member: String(ids['otherMember']),
    spareMember: String(ids['otherMember']),
    robot: String(ids['otherRobot']),
    spareRobot: String(ids['otherRobot']),
    spareRobotName: 'node',
    spareRepository: 'app',
    spareUserName: 'outsider',
    label: String(ids['otherLabel']),
    spareLabel: String(ids['otherLabel']),
    spareBornLabel: String(ids['otherLabel']),
  }
  const missing = (own: string, id: string) => {
    const swap = Object.fromEntries(Object.keys(ofOther).map((key) => [key, id]))
    return { swap: { ...swap, own }, names: some, isMissing: true }
  }
  return [
    { swap: { ...ofOther, own: 'other' }, names: foreigners, isMissing: false },
    { swap: { ...ofOther, own: String(ids['otherId']) }, names: some, isMissing: true },
    missing('missing', '999998'),
    missing('99999999999', '99999999999'),
  ]
}

test('further keys in a body are passed over, and nothing fails on them', async (t) => {
  const world = await createWorld(t)
  for (const { method, row } of rowsOf) {
    if (row.body === undefined) continue
    const body = withFurtherKeys(row.body)
    for (const name of ['sysadmin', 'projectAdmin', 'guest'] as const) {
      await callAs(world, name, { method, row: { ...row, body } })
    }
  }
  const rows = await world.admin.records
    .selectFrom('users')
    .select('username')
    .where('sysadmin', '=', true)
    .where('username', 'not like', 'spare%')
    .execute()
  assert.deepEqual(rows, [{ username: 'admin' }])
})

/** Into every object, however deep. */
function withFurtherKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withFurtherKeys)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([key, inner]) => [key, withFurtherKeys(inner)])
  const further = { sysadmin: true, id: 1, nonsense: 1, projectId: 1, deleted_at: 'now' }
  return { ...further, ...Object.fromEntries(entries) }
}

test('ids of another project open nothing through a path of one’s own', async (t) => {
  const { admin, logins, ids } = await createWorld(t)
  const as = logins.projectAdmin ?? ''
  const ask = (method: string, path: string, body?: unknown) =>
    admin.call(prefix + path, { method, as, ...(body === undefined ? {} : { body }) })
  const foreign = ids['otherMember'] ?? 0
  assert.equal((await ask('GET', `/projects/own/members/${foreign}`)).status, 404)
  assert.equal((await ask('PUT', `/projects/own/members/${foreign}`, { role_id: 5 })).status, 404)
  assert.equal((await ask('DELETE', `/projects/own/members/${foreign}`)).status, 404)
  const member = await admin.members.get(ids['otherId'] ?? 0, foreign)
  assert.equal(member?.roleId, 1)

  const robot = ids['otherRobot'] ?? 0
  const claim = {
    name: 'robot$other+node',
    level: 'project',
    permissions: [
      { kind: 'project', namespace: 'own', access: [{ resource: 'repository', action: 'push' }] },
    ],
  }
  assert.equal((await ask('GET', `/robots/${robot}`)).status, 403)
  assert.equal((await ask('PUT', `/robots/${robot}`, claim)).status, 403)
  assert.equal((await ask('PATCH', `/robots/${robot}`, { secret: '' })).status, 403)
  assert.equal((await ask('DELETE', `/robots/${robot}`)).status, 403)
  const label = ids['otherLabel'] ?? 0
  const labels = `/projects/own/repositories/app/artifacts/${appDigest}/labels`
  assert.equal((await ask('GET', `/labels/${label}`)).status, 403)
  assert.equal((await ask('PUT', `/labels/${label}`, { name: 'mine' })).status, 403)
  assert.equal((await ask('DELETE', `/labels/${label}`)).status, 403)
  assert.equal((await ask('POST', labels, { id: label })).status, 404)
  assert.equal((await ask('DELETE', `${labels}/${label}`)).status, 404)
  assert.equal((await ask('GET', '/projects/own/repositories/..%252Fother%252Fapp')).status, 404)
  assert.equal((await ask('GET', '/projects/own/repositories/%252e%252e')).status, 404)
})

test('a public project shows itself to everybody, and no more than that', async (t) => {
  const { admin, logins, ids } = await createWorld(t)
  await admin.asAdmin(`${prefix}/projects/own`, {
    method: 'PUT',
    body: { metadata: { public: 'true' } },
  })
  for (const name of ['anonymous', 'outsider'] as const) {
    const login = logins[name]
    const statusOf = async (path: string) =>
      (await admin.call(prefix + path, login === undefined ? {} : { as: login })).status
    const refused = name === 'anonymous' ? 401 : 403
    assert.equal(await statusOf('/projects/own'), 200)
    assert.equal(await statusOf('/projects/own/repositories'), 200)
    assert.equal(await statusOf('/projects/own/repositories/app'), 200)
    assert.equal(await statusOf('/projects/own/repositories/app/artifacts'), 200)
    assert.equal(await statusOf(`/projects/own/repositories/app/artifacts/${appDigest}`), 200)
    assert.equal(await statusOf('/labels?scope=p&project_id=1'), 200)
    assert.equal(await statusOf(`/labels/${ids['label'] ?? 0}`), 200)
    assert.equal(await statusOf(`/labels/${ids['globalLabel'] ?? 0}`), refused)
    assert.equal(await statusOf('/projects/own/members'), refused)
    assert.equal(await statusOf('/projects/own/metadatas/'), refused)
    assert.equal(await statusOf('/projects/own/logs'), refused)
    assert.equal(await statusOf('/robots?q=Level=project,ProjectID=1'), refused)
  }
})

test('tokens, wrong log-ins and edges get nowhere in the admin API', async (t) => {
  const admin = await startAdmin(t)
  await admin.bootstrap.ensureEdge({
    id: 'e1',
    name: 'e1',
    secret: 'EdgeSecret1EdgeSecret1',
    scope: ['*'],
    acceptPeople: false,
  })
  const statusOf = async (headers: Record<string, string>, path = '/projects') =>
    (await admin.call(prefix + path, { headers })).status
  const basic = (text: string) => ({
    Authorization: `Basic ${Buffer.from(text).toString('base64')}`,
  })
  assert.equal(await statusOf({ Authorization: 'Bearer abc' }), 401)
  assert.equal(await statusOf(basic('admin:wrong')), 401)
  assert.equal(await statusOf(basic('edge$e1:EdgeSecret1EdgeSecret1')), 403)
  assert.equal(await statusOf({}), 200)
  assert.equal(await statusOf({ Authorization: 'Basic Og==' }), 200)
  assert.equal(await statusOf(basic('admin:wrong'), '/ping'), 200)
})

test('a route without a permission stops the server from starting', async () => {
  const app = Fastify()
  const anything: unknown = new Proxy(() => undefined, { get: () => anything })
  addRooms(app, { rooms: anything as Rooms, version: '0', maxBodyBytes: 1 })
  for (const path of [`${prefix}/forgotten`, '/service/forgotten', '/forgotten']) {
    assert.throws(() => app.get(path, () => ''), /does not declare its permission/)
  }
  app.get('/open', { config: { permission: { of: 'nobody' } } }, () => '')
  await app.close()
})
