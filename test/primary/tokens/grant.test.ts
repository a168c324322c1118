import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import type {
  CallerFacts,
  ProjectFacts,
  RobotPermission,
} from '../../../primary/accounts/caller.ts'
import { isExpired } from '../../../primary/accounts/account.ts'
import { roles } from '../../../primary/accounts/permissions.ts'
import { challengeOf, intersect, mayCatalog, rightsOf } from '../../../primary/tokens/grant.ts'

const repository = parseRepositoryName('proj/app')
const open: ProjectFacts = { id: 7, name: 'proj', public: true }
const closed: ProjectFacts = { id: 7, name: 'proj', public: false }

const robot = (permissions: readonly RobotPermission[], projectId?: number): CallerFacts => ({
  kind: 'robot',
  id: 3,
  projectId,
  permissions,
  expiresAt: undefined,
})

const give = (
  actions: string,
  place: { namespace: string; projectId?: number; effect?: string },
): RobotPermission => ({
  kind: 'project',
  namespace: place.namespace,
  ...(place.projectId === undefined ? {} : { projectId: place.projectId }),
  access: actions.split(' ').map((action) => ({
    resource: 'repository',
    action,
    ...(place.effect === undefined ? {} : { effect: place.effect }),
  })),
})

const user: CallerFacts = { kind: 'user', id: 5, admin: false }
const admin: CallerFacts = { kind: 'user', id: 1, admin: true }

// who · role · rights in a private project · rights in a public one
const table: [string, CallerFacts | undefined, number | undefined, string, string][] = [
  ['an account that is gone', undefined, undefined, '', ''],
  ['a caller without a log-in', { kind: 'anonymous' }, undefined, '', 'pull'],
  ['a user who is no member', user, undefined, '', 'pull'],
  ['a role that does not exist', user, 9, '', 'pull'],
  ['a limited guest', user, roles.limitedGuest, 'pull', 'pull'],
  ['a guest', user, roles.guest, 'pull', 'pull'],
  ['a developer', user, roles.developer, 'pull push', 'pull push'],
  ['a maintainer', user, roles.maintainer, 'pull push delete', 'pull push delete'],
  ['a project admin', user, roles.projectAdmin, 'pull push delete', 'pull push delete'],
  ['a system administrator', admin, undefined, 'pull push delete', 'pull push delete'],
  [
    'a system administrator who is a guest',
    admin,
    roles.guest,
    'pull push delete',
    'pull push delete',
  ],
  ['a robot without rights', robot([], 7), undefined, '', 'pull'],
  [
    'its pull robot',
    robot([give('pull', { namespace: 'proj', projectId: 7 })], 7),
    undefined,
    'pull',
    'pull',
  ],
  [
    'its push robot',
    robot([give('push', { namespace: 'proj', projectId: 7 })], 7),
    undefined,
    'push',
    'pull push',
  ],
  [
    'its delete robot',
    robot([give('delete', { namespace: 'proj', projectId: 7 })], 7),
    undefined,
    'delete',
    'pull delete',
  ],
  [
    'a robot of another project',
    robot([give('pull push', { namespace: 'other', projectId: 8 })], 8),
    undefined,
    '',
    'pull',
  ],
  [
    'a project robot that claims every project',
    robot([give('push', { namespace: '*' })], 8),
    undefined,
    '',
    'pull',
  ],
  [
    'a robot of a former project of that name',
    robot([give('pull push', { namespace: 'proj', projectId: 2 })], 2),
    undefined,
    '',
    'pull',
  ],
  [
    'a system robot for a former project of that name',
    robot([give('push', { namespace: 'proj', projectId: 2 })]),
    undefined,
    '',
    'pull',
  ],
  [
    'a system robot for this project',
    robot([give('pull push', { namespace: 'proj', projectId: 7 })]),
    undefined,
    'pull push',
    'pull push',
  ],
  [
    'a system robot for all projects',
    robot([give('pull push', { namespace: '*' })]),
    undefined,
    'pull push',
    'pull push',
  ],
  [
    'a robot whose right is denied elsewhere',
    robot([
      give('pull push', { namespace: '*' }),
      give('push', { namespace: 'proj', projectId: 7, effect: 'deny' }),
    ]),
    undefined,
    'pull',
    'pull',
  ],
  [
    'a robot with rights over the system only',
    robot([
      { kind: 'system', namespace: '/', access: [{ resource: 'repository', action: 'push' }] },
    ]),
    undefined,
    '',
    'pull',
  ],
  ['an edge for everything', { kind: 'edge', id: 'e', scope: '*' }, undefined, 'pull', 'pull'],
  ['an edge for this project', { kind: 'edge', id: 'e', scope: [7] }, undefined, 'pull', 'pull'],
  ['an edge for another project', { kind: 'edge', id: 'e', scope: [8] }, undefined, '', ''],
  ['an edge for nothing', { kind: 'edge', id: 'e', scope: [] }, undefined, '', ''],
]

for (const [who, facts, roleId, inPrivate, inPublic] of table) {
  test(`${who} may ${inPrivate || 'nothing'} in a private project and ${inPublic || 'nothing'} in a public one`, () => {
    const rights = (project: ProjectFacts | undefined) =>
      [...rightsOf(facts, project, roleId, undefined, repository)].join(' ')
    assert.equal(rights(closed), inPrivate)
    assert.equal(rights(open), inPublic)
    assert.equal(rights(undefined), '')
  })
}

test('a token narrows the rights and never widens them', () => {
  const scope = (name: string, ...actions: string[]) => [{ type: 'repository', name, actions }]
  const cases: [string, CallerFacts, number | undefined, ReturnType<typeof scope>, string][] = [
    ['pull of a maintainer', user, roles.maintainer, scope('proj/app', 'pull'), 'pull'],
    ['push of a guest', user, roles.guest, scope('proj/app', 'pull', 'push'), 'pull'],
    ['everything', admin, undefined, scope('proj/app', '*'), 'pull push delete'],
    ['push alone', admin, undefined, scope('proj/app', 'push'), 'push'],
    ['another repository', admin, undefined, scope('proj/other', 'pull'), ''],
    ['a prefix of the name', admin, undefined, scope('proj/ap', 'pull'), ''],
    ['no entries', admin, undefined, [], ''],
    [
      'another type',
      admin,
      undefined,
      [{ type: 'registry', name: 'proj/app', actions: ['pull'] }],
      '',
    ],
  ]
  for (const [name, facts, roleId, access, expected] of cases) {
    assert.equal([...rightsOf(facts, closed, roleId, access, repository)].join(' '), expected, name)
  }
})

test('the catalog is for administrators and for robots that were given it', () => {
  const reader: CallerFacts = robot([
    { kind: 'system', namespace: '/', access: [{ resource: 'catalog', action: 'read' }] },
  ])
  assert.ok(mayCatalog(admin, undefined))
  assert.ok(mayCatalog(reader, undefined))
  assert.ok(mayCatalog(admin, [{ type: 'registry', name: 'catalog', actions: ['*'] }]))
  assert.ok(!mayCatalog(admin, []))
  assert.ok(!mayCatalog(user, undefined))
  assert.ok(!mayCatalog({ kind: 'anonymous' }, undefined))
  assert.ok(!mayCatalog({ kind: 'edge', id: 'e', scope: '*' }, undefined))
  assert.ok(!mayCatalog(robot([give('pull', { namespace: '*' })]), undefined))
  assert.ok(!mayCatalog(undefined, undefined))
})

test('a robot expires at its time, remembered or not', () => {
  const short: CallerFacts = {
    kind: 'robot',
    id: 1,
    projectId: 7,
    permissions: [],
    expiresAt: 1000,
  }
  assert.ok(!isExpired(short, 999))
  assert.ok(isExpired(short, 1000))
  assert.ok(!isExpired(robot([], 7), Number.MAX_SAFE_INTEGER))
})

test('asked actions are cut to the allowed ones, in the order that clients write', () => {
  assert.deepEqual(intersect(['push', 'pull', 'x'], new Set(['pull', 'push'])), ['pull', 'push'])
  assert.deepEqual(intersect(['*'], new Set(['pull'])), ['pull'])
  assert.deepEqual(intersect(['delete'], new Set(['pull'])), [])
})

test('the challenge names the realm by the external URL, quoted, with one scope parameter', () => {
  assert.equal(
    challengeOf({
      externalUrl: 'https://registry.example/',
      service: 'outport',
      scopes: [
        { type: 'repository', name: 'a/b', actions: ['pull', 'push'] },
        { type: 'repository', name: 'c/d', actions: ['pull'] },
      ],
      error: 'insufficient_scope',
    }),
    'Bearer realm="https://registry.example/service/token",service="outport",' +
      'scope="repository:a/b:pull,push repository:c/d:pull",error="insufficient_scope"',
  )
  assert.equal(
    challengeOf({ externalUrl: 'http://127.0.0.1:8080', service: 'outport' }),
    'Bearer realm="http://127.0.0.1:8080/service/token",service="outport"',
  )
})
