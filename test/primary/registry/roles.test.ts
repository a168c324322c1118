// Who may do what over the distribution API: every endpoint, by role, in one's own repository, a foreign and a missing one.
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { contentOf, createImage, pushImage } from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

/** What each may do to the private project `own`, by Harbor's roles. [harbor src/common/rbac/project/rbac_role.go] */
const rights = {
  anonymous: '',
  outsider: '',
  limitedGuest: 'pull',
  guest: 'pull',
  developer: 'pull push',
  maintainer: 'pull push delete',
  projectAdmin: 'pull push delete',
  robot: 'pull',
  sysadmin: 'pull push delete',
} as const
type Name = keyof typeof rights
const names = Object.keys(rights) as Name[]

const roleIds: Partial<Record<Name, number>> = {
  projectAdmin: 1,
  developer: 2,
  guest: 3,
  maintainer: 4,
  limitedGuest: 5,
}

const image = createImage({ seed: 'roles' })
const [layer] = image.blobs
const fresh = contentOf(Buffer.from('pushed by who may'))
const unknown = `sha256:${'0'.repeat(64)}`
const session = '00000000-0000-4000-8000-000000000000'

interface Operation {
  readonly end: string
  readonly method: string
  /** Below the repository. */
  readonly path: string
  readonly needs: 'pull' | 'push' | 'delete'
  /** What who may is answered in the repository `own/app`. */
  readonly done: number
  readonly body?: Buffer
  readonly headers?: Readonly<Record<string, string>>
}

/** [distribution-spec, Endpoints] */
const operations: readonly Operation[] = [
  ...['GET', 'HEAD'].flatMap((method): Operation[] => [
    { end: '2', method, path: `/blobs/${layer?.digest}`, needs: 'pull', done: 200 },
    { end: '3', method, path: '/manifests/v1', needs: 'pull', done: 200 },
    { end: '3', method, path: `/manifests/${image.manifest.digest}`, needs: 'pull', done: 200 },
  ]),
  { end: '4a', method: 'POST', path: '/blobs/uploads/', needs: 'push', done: 202 },
  {
    end: '4b',
    method: 'POST',
    path: `/blobs/uploads/?digest=${fresh.digest}`,
    needs: 'push',
    done: 201,
    body: fresh.bytes,
  },
  // Nobody's session: who may push learns that it is not there.
  {
    end: '5',
    method: 'PATCH',
    path: `/blobs/uploads/${session}`,
    needs: 'push',
    done: 404,
    body: fresh.bytes,
  },
  {
    end: '6',
    method: 'PUT',
    path: `/blobs/uploads/${session}?digest=${unknown}`,
    needs: 'push',
    done: 404,
  },
  {
    end: '7a',
    method: 'PUT',
    path: '/manifests/v2',
    needs: 'push',
    done: 201,
    body: image.manifest.bytes,
    headers: { 'Content-Type': image.manifest.mediaType },
  },
  { end: '8a', method: 'GET', path: '/tags/list', needs: 'pull', done: 200 },
  { end: '8b', method: 'GET', path: '/tags/list?n=1&last=a', needs: 'pull', done: 200 },
  { end: '9', method: 'DELETE', path: '/manifests/none', needs: 'delete', done: 404 },
  { end: '9', method: 'DELETE', path: `/manifests/${unknown}`, needs: 'delete', done: 404 },
  { end: '10', method: 'DELETE', path: `/blobs/${unknown}`, needs: 'delete', done: 404 },
  {
    end: '11',
    method: 'POST',
    path: `/blobs/uploads/?mount=${layer?.digest}&from=own/app`,
    needs: 'push',
    done: 201,
  },
  {
    end: '12a',
    method: 'GET',
    path: `/referrers/${image.manifest.digest}`,
    needs: 'pull',
    done: 200,
  },
  {
    end: '12b',
    method: 'GET',
    path: `/referrers/${image.manifest.digest}?artifactType=x/y`,
    needs: 'pull',
    done: 200,
  },
  { end: '13', method: 'GET', path: `/blobs/uploads/${session}`, needs: 'push', done: 404 },
  { end: '14', method: 'DELETE', path: `/blobs/uploads/${session}`, needs: 'push', done: 404 },
]

let primary: TestPrimary
const clients = new Map<Name, RegistryClient>()

before(async () => {
  primary = await startTestPrimary()
  for (const project of ['own', 'other']) {
    await primary.createProject(project, { isPublic: false })
    await pushImage(primary.client(primary.admin), `${project}/app`, image, 'v1')
  }
  for (const name of names) {
    if (name === 'anonymous') clients.set(name, primary.client(undefined, 'bearer'))
    else if (name === 'sysadmin') clients.set(name, primary.client(primary.admin))
    else if (name === 'robot')
      clients.set(name, primary.client(await primary.createRobot('own', 'node')))
    else {
      const user = await primary.createUser()
      const role = roleIds[name]
      if (role !== undefined) await primary.setRole('own', user.username, role)
      clients.set(name, primary.client(user))
    }
  }
})

async function statusOf(name: Name, repository: string, operation: Operation): Promise<number> {
  const { method, path, body, headers } = operation
  const answer = await clients.get(name)?.request(method, `/v2/${repository}${path}`, {
    ...(body !== undefined && { body }),
    ...(headers !== undefined && { headers }),
  })
  return answer?.status ?? 0
}

/** Asks for every operation as everybody, and lists what is answered otherwise than expected. */
async function walk(
  repository: string,
  expected: (name: Name, operation: Operation) => readonly number[],
): Promise<readonly string[]> {
  const mistakes: string[] = []
  for (const operation of operations) {
    for (const name of names) {
      const status = await statusOf(name, repository, operation)
      if (expected(name, operation).includes(status)) continue
      mistakes.push(`end-${operation.end} ${operation.method} as ${name}: ${status}`)
    }
  }
  return mistakes
}

const may = (name: Name, { needs }: Operation) => rights[name].split(' ').includes(needs)

test('whoever is logged in finds the API, end-1', async () => {
  for (const name of names) {
    const answer = await clients.get(name)?.request('GET', '/v2/')
    assert.equal(answer?.status, 200, name)
  }
  const nobody = await primary.client().request('GET', '/v2/')
  assert.equal(nobody.status, 401)
})

test('in their own project everybody does what their role may, end-2 to end-14', async () => {
  assert.deepEqual(
    await walk('own/app', (name, operation) => [may(name, operation) ? operation.done : 401]),
    [],
  )
})

test('a repository that is missing there is missing to those who may, and refused to the others', async () => {
  const missing = operations.filter(({ needs, end }) => needs !== 'push' || end === '5')
  for (const operation of missing) {
    for (const name of names) {
      const status = await statusOf(name, 'own/none', operation)
      // What is missing has no referrers. [distribution-spec, Listing Referrers]
      const absent = operation.end.startsWith('12') ? 200 : 404
      assert.equal(status, may(name, operation) ? absent : 401, `end-${operation.end} as ${name}`)
    }
  }
})

test('in a foreign project, and in one that is missing, all are refused alike', async () => {
  const refused = (name: Name, operation: Operation) =>
    name === 'sysadmin' ? [operation.done] : [401]
  assert.deepEqual(await walk('other/app', refused), [])
  const unknownTo = (name: Name, { end }: Operation) => {
    if (name !== 'sysadmin') return [401]
    // What is missing has no referrers. [distribution-spec, Listing Referrers]
    return [end.startsWith('12') ? 200 : 404]
  }
  assert.deepEqual(await walk('missing/app', unknownTo), [])
})

test('a mount from a foreign repository gives nothing, whoever may push', async () => {
  const secret = contentOf(Buffer.from('of the other project alone'))
  const admin = primary.client(primary.admin)
  const path = `/v2/other/app/blobs/uploads/?digest=${secret.digest}`
  assert.equal((await admin.request('POST', path, { body: secret.bytes })).status, 201)
  for (const name of ['developer', 'maintainer', 'projectAdmin'] as const) {
    const mount = `/v2/own/app/blobs/uploads/?mount=${secret.digest}&from=other/app`
    const answer = await clients.get(name)?.request('POST', mount)
    assert.equal(answer?.status, 202, `${name} gets a session and no blob`)
    const blob = await clients.get(name)?.request('HEAD', `/v2/own/app/blobs/${secret.digest}`)
    assert.equal(blob?.status, 404)
  }
})
