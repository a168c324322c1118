import assert from 'node:assert/strict'
import { describe, test, type TestContext } from 'node:test'
import type { Caller } from '../../../primary/accounts/caller.ts'
import { createFollowedCache } from '../../../primary/events/followed-cache.ts'
import { createAccess, type CachedBlob } from '../../../primary/registry/access.ts'
import { createLookups, type AccessFacts } from '../../../primary/store/lookups.ts'
import { createStoredBlobs } from '../../../primary/store/stored-blobs.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createTestClock } from '../../kit/clock.ts'
import { bytesOf, contentOf } from '../../kit/images.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

const repository = parseRepositoryName('library/app')
const anonymous: Caller = { kind: 'anonymous', access: undefined }
const blob = contentOf(bytesOf('accessed', 100))

/** Access over real records, with every look-up counted and a log that the test tells of changes. */
async function open(t: TestContext) {
  const kit = await createRegistryRecords(t)
  const clock = createTestClock()
  const lookups = createLookups(kit.records)
  const asked: string[] = []
  const listeners: ((subjects: readonly string[] | undefined) => void)[] = []
  let current = true
  const follower = {
    isCurrent: () => current,
    onChange: (listener: (typeof listeners)[number]) => void listeners.push(listener),
  }
  const access = createAccess({
    lookups: {
      ...lookups,
      find(question) {
        asked.push(`${question.repository} ${question.digest ?? ''}`)
        return lookups.find(question)
      },
    },
    revive: (condemned) => createStoredBlobs(kit.records).revive(condemned),
    decisions: createFollowedCache<AccessFacts>({ follower, maxEntries: 100 }),
    links: createFollowedCache<CachedBlob>({ follower, maxEntries: 100 }),
    challenge: (scopes, error) => JSON.stringify({ scopes, error }),
    now: clock.now,
  })
  return {
    ...kit,
    access,
    clock,
    /** How many queries the action made. */
    queries: async (act: () => Promise<unknown>): Promise<number> => {
      const before = asked.length
      await act()
      return asked.length - before
    },
    change: (...subjects: string[]) => {
      for (const listener of listeners) listener(subjects)
    },
    follow: (isCurrent: boolean) => {
      current = isCurrent
    },
  }
}

const refused = (error: unknown) => error instanceof OciError && error.code === 'UNAUTHORIZED'

describe('queries', () => {
  test('a blob costs one query when cold, and none when hot', async (t) => {
    const { access, addBlob, queries } = await open(t)
    await addBlob(repository, blob)
    const request = { caller: anonymous, repository, action: 'pull', digest: blob.digest } as const
    assert.equal(await queries(() => access.allow(request)), 1)
    assert.equal(await queries(() => access.allow(request)), 0)
    assert.equal(await queries(() => access.allow({ ...request, promise: true })), 0)
    const caller: Caller = {
      ...anonymous,
      access: [{ type: 'repository', name: repository, actions: ['pull'] }],
    }
    assert.equal(await queries(() => access.allow({ ...request, caller })), 0)
  })

  test('another blob of a known repository costs one, and so does a known blob for another account', async (t) => {
    const { access, addBlob, queries, caller } = await open(t)
    const other = contentOf(bytesOf('other', 100))
    await addBlob(repository, blob)
    await addBlob(repository, other)
    const request = { caller: anonymous, repository, action: 'pull' } as const
    await access.allow({ ...request, digest: blob.digest })
    assert.equal(await queries(() => access.allow({ ...request, digest: other.digest })), 1)
    assert.equal(await queries(() => access.allow({ ...request, caller, digest: other.digest })), 1)
    assert.equal(await queries(() => access.allow({ ...request, caller, digest: blob.digest })), 0)
  })

  test('absence is asked for again every time', async (t) => {
    const { access, addBlob, queries } = await open(t)
    const request = { caller: anonymous, repository, action: 'pull', digest: blob.digest } as const
    const find = async () => (await access.allow(request)).blob
    assert.equal(await find(), undefined)
    assert.equal(await queries(find), 1)
    await addBlob(repository, contentOf(bytesOf('something else', 1)))
    assert.equal(await queries(find), 1)
    assert.equal(await queries(find), 1)
    await addBlob(repository, blob)
    assert.equal((await find())?.size, 100)
    assert.equal(await queries(find), 0)
  })

  test('requests at once make at most one query each, and none once the answer is kept', async (t) => {
    const { access, addBlob, queries } = await open(t)
    await addBlob(repository, blob)
    const request = { caller: anonymous, repository, action: 'pull', digest: blob.digest } as const
    const burst = () => Promise.all(Array.from({ length: 10 }, () => access.allow(request)))
    assert.ok((await queries(burst)) <= 10)
    assert.equal(await queries(burst), 0)
  })

  test('without a log that is followed, memory is not believed', async (t) => {
    const { access, addBlob, queries, follow } = await open(t)
    await addBlob(repository, blob)
    const request = { caller: anonymous, repository, action: 'pull', digest: blob.digest } as const
    await access.allow(request)
    follow(false)
    assert.equal(await queries(() => access.allow(request)), 1)
  })

  test('"it exists" is promised from memory for a minute, then the database is asked', async (t) => {
    const { access, addBlob, queries, clock, records } = await open(t)
    await addBlob(repository, blob)
    const request = {
      caller: anonymous,
      repository,
      action: 'pull',
      digest: blob.digest,
      promise: true,
    } as const
    await access.allow(request)
    clock.advance(59_000)
    assert.equal(await queries(() => access.allow(request)), 0)
    clock.advance(2000)
    assert.equal(await queries(() => access.allow(request)), 1)
    assert.equal(await queries(() => access.allow(request)), 0)
    clock.advance(61_000)
    await records.updateTable('blobs').set({ state: 'condemned' }).execute()
    assert.equal((await access.allow(request)).blob?.condemned, false)
    assert.equal(
      (await records.selectFrom('blobs').select('state').executeTakeFirst())?.state,
      'live',
    )
  })
})

describe('changes', () => {
  test('what the log names is asked for again', async (t) => {
    const { access, addBlob, queries, change, projectId, userId, caller, records } = await open(t)
    const { repository: facts } = await addBlob(repository, blob)
    await records
      .insertInto('members')
      .values({ project_id: projectId, user_id: userId, role_id: 3 })
      .execute()
    const request = { caller, repository, action: 'pull', digest: blob.digest } as const
    const ask = () => access.allow(request)
    await ask()
    for (const subject of [
      `project:${projectId}`,
      `repository:${facts.id}`,
      `member:${projectId}:${userId}`,
      `user:${userId}`,
      `link:${facts.id}:${blob.digest}`,
    ]) {
      assert.equal(await queries(ask), 0)
      change(subject)
      assert.equal(await queries(ask), 1, subject)
    }
    change('project:999', `member:${projectId}:999`)
    assert.equal(await queries(ask), 0)
  })

  test('a member who is removed may no longer pull', async (t) => {
    const { access, createProject, records, userId, caller, change } = await open(t)
    const hidden = await createProject('hidden', false)
    await records
      .insertInto('repositories')
      .values({ project_id: hidden, name: 'hidden/app', description: '' })
      .execute()
    await records
      .insertInto('members')
      .values({ project_id: hidden, user_id: userId, role_id: 3 })
      .execute()
    const request = {
      caller,
      repository: parseRepositoryName('hidden/app'),
      action: 'pull',
    } as const
    await access.allow(request)
    await records.deleteFrom('members').execute()
    change(`member:${hidden}:${userId}`)
    await assert.rejects(access.allow(request), refused)
  })
})

describe('refusals', () => {
  test('are the same whether or not the repository, the project or the blob exists', async (t) => {
    const { access, createProject, records, caller } = await open(t)
    const hidden = await createProject('hidden', false)
    const row = await records
      .insertInto('repositories')
      .values({ project_id: hidden, name: 'hidden/app', description: '' })
      .returning('id')
      .executeTakeFirstOrThrow()
    await records
      .insertInto('blobs')
      .values({ key: 'k', digest: blob.digest, size: 1, state: 'condemned' })
      .execute()
    await records
      .insertInto('links')
      .values({ repository_id: row.id, digest: blob.digest })
      .execute()
    const texts = new Set<string>()
    for (const name of ['hidden/app', 'hidden/nil', 'absent/app']) {
      for (const who of [anonymous, caller]) {
        for (const digest of [blob.digest, digestOf(Buffer.from('x'))]) {
          const request = {
            caller: who,
            repository: parseRepositoryName(name),
            action: 'pull',
            digest,
            promise: true,
          } as const
          await assert.rejects(access.allow(request), (error) => {
            assert.ok(error instanceof OciError)
            texts.add(
              JSON.stringify([who.kind, error.status, error.entries, error.headers])
                .replaceAll(name, 'NAME')
                .replaceAll(name.split('/')[0] ?? '', 'PROJECT'),
            )
            return true
          })
        }
      }
    }
    assert.equal(texts.size, 2, 'one text for each kind of caller')
    // A stranger's HEAD takes nothing back from the collector.
    assert.equal(
      (await records.selectFrom('blobs').select('state').executeTakeFirst())?.state,
      'condemned',
    )
  })

  test('a token without the right is told so, and what to ask for', async (t) => {
    const { access, records, caller, userId } = await open(t)
    await records.updateTable('users').set({ sysadmin: true }).where('id', '=', userId).execute()
    const narrow: Caller = {
      ...caller,
      access: [{ type: 'repository', name: 'library/other', actions: ['pull'] }],
    }
    const challengeOf = async (action: 'pull' | 'push' | 'delete', mountFrom?: string) => {
      try {
        await access.allow({
          caller: narrow,
          repository,
          action,
          mountFrom: mountFrom === undefined ? undefined : parseRepositoryName(mountFrom),
        })
        return undefined
      } catch (error) {
        assert.ok(error instanceof OciError)
        return JSON.parse(error.headers['WWW-Authenticate'] ?? '{}') as unknown
      }
    }
    const scope = (name: string, actions: string[]) => ({ type: 'repository', name, actions })
    assert.deepEqual(await challengeOf('pull'), {
      scopes: [scope(repository, ['pull'])],
      error: 'insufficient_scope',
    })
    assert.deepEqual(await challengeOf('delete'), {
      scopes: [scope(repository, ['delete'])],
      error: 'insufficient_scope',
    })
    assert.deepEqual(await challengeOf('push', 'library/source'), {
      scopes: [scope(repository, ['pull', 'push']), scope('library/source', ['pull'])],
      error: 'insufficient_scope',
    })
  })

  test('administrators are told that a project does not exist', async (t) => {
    const { access, records, caller, userId } = await open(t)
    await records.updateTable('users').set({ sysadmin: true }).where('id', '=', userId).execute()
    const request = {
      caller,
      repository: parseRepositoryName('absent/app'),
      action: 'push',
    } as const
    await assert.rejects(
      access.allow(request),
      (error) => error instanceof OciError && error.code === 'NAME_UNKNOWN',
    )
  })

  test('a robot that expires while it is remembered is refused', async (t) => {
    const { access, records, userId, projectId, clock, addBlob } = await open(t)
    await addBlob(repository, blob)
    await records.updateTable('projects').set({ public: false }).execute()
    const expires = new Date(Date.now() + 3_600_000)
    const robot = await records
      .insertInto('robots')
      .values({
        name: 'robot$library+ci',
        description: '',
        project_id: projectId,
        secret_hash: 'x',
        disabled: false,
        duration_days: 30,
        expires_at: expires,
        permissions: JSON.stringify([
          {
            kind: 'project',
            namespace: 'library',
            projectId,
            access: [{ resource: 'repository', action: 'pull' }],
          },
        ]),
        creator_kind: 'user',
        creator_id: userId,
      })
      .returning('id')
      .executeTakeFirstOrThrow()
    const caller: Caller = {
      kind: 'robot',
      id: robot.id,
      name: 'robot$library+ci',
      access: undefined,
    }
    await access.allow({ caller, repository, action: 'pull' })
    await assert.rejects(access.allow({ caller, repository, action: 'push' }), refused)
    clock.advance(expires.getTime() - clock.now() + 1)
    await assert.rejects(access.allow({ caller, repository, action: 'pull' }), refused)
  })
})

describe('sources of mounts', () => {
  test('a token that does not name the source is asked for both, if the account may pull from it', async (t) => {
    const { access, records, caller, userId, createProject, addBlob } = await open(t)
    const hidden = await createProject('hidden', false)
    await records
      .insertInto('repositories')
      .values({ project_id: hidden, name: 'hidden/app', description: '' })
      .execute()
    await addBlob(repository, blob)
    const target = parseRepositoryName('library/target')
    const from = parseRepositoryName('hidden/app')
    const narrow: Caller = {
      ...caller,
      access: [{ type: 'repository', name: target, actions: ['pull', 'push'] }],
    }
    const question = { caller: narrow, target, digest: blob.digest }
    assert.equal(await access.mountSource({ ...question, from }), undefined)
    await records
      .insertInto('members')
      .values({ project_id: hidden, user_id: userId, role_id: 3 })
      .execute()
    await assert.rejects(access.mountSource({ ...question, from }), refused)
    assert.equal(
      await access.mountSource({ ...question, caller, from }),
      undefined,
      'it has no such blob',
    )
    const open_ = await access.mountSource({ ...question, from: repository })
    assert.equal(open_?.name, repository, 'what anybody may pull needs no scope')
  })
})
