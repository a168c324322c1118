import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { readEdge, withAdminApi } from '../../deploy/admin-api.ts'
import { edgePath } from '../../deploy/commands/edges/options.ts'
import { StartError } from '../../deploy/start-errors.ts'
import { startAdminApiServer, type AdminApiServer } from '../kit/admin-api-server.ts'
import { tempFolder } from '../kit/temp.ts'

const password = 'Planted-Secret-1'
let api: AdminApiServer
let passwordFile: string

before(async (t) => {
  api = await startAdminApiServer(t as TestContext)
  passwordFile = join(await tempFolder(t as TestContext), 'password')
  await writeFile(passwordFile, password)
})

const flags = () => ({
  primary: api.url,
  user: undefined,
  'password-file': passwordFile,
  ca: undefined,
  'insecure-http': false,
})

const errors = (message: string) => ({ errors: [{ code: 'X', message }] })

for (const [status, body, message] of [
  [401, errors('wrong'), /does not take this password of admin: wrong; give another --user/],
  [403, errors('no'), /admin may not do this at .*: no; log in as a system administrator/],
  [404, errors('gone'), /there is no edge 'rack-1' at this primary: 'outport edges list' shows/],
  [409, errors('it is suspended already'), /refuses this: it is suspended already/],
  [422, undefined, /refuses this \(422\)/],
  [429, errors('slow'), /too many log-ins: try again in 9 s/],
  [302, undefined, /redirects to https:\/\/b\.example: give .*--primary/],
  [500, errors(`a\n${password}`), /answers 500: a …: try again/],
] as const) {
  test(`an answer of ${status} is one line that says what to do`, async () => {
    const headers = { 'retry-after': '9', location: 'https://b.example/x?secret' }
    api.replyWith(() => ({ status, headers, body }))
    const { path, absent } = edgePath('rack-1')
    await assert.rejects(
      withAdminApi(flags(), ({ call }) => call(path, { absent })),
      (error) => {
        assert.ok(error instanceof StartError)
        assert.match(error.message, message)
        assert.doesNotMatch(error.message, /\n|Planted/)
        return true
      },
    )
  })
}

test('a list is read to its end, and what is none is refused', async () => {
  const all = Array.from({ length: 230 }, (_each, index) => index)
  api.replyWith(({ path }) => {
    const page = Number(new URLSearchParams(path.split('?')[1]).get('page'))
    return {
      headers: { 'x-total-count': '230' },
      body: all.slice((page - 1) * 100, page * 100),
    }
  })
  const read = () => withAdminApi(flags(), ({ list }) => list('/edges'))
  assert.deepEqual(await read(), all)
  assert.equal(api.calls.length, 3)
  api.replyWith(() => ({ body: 'a page' }))
  await assert.rejects(read(), /is no list at this primary/)
})

test('an edge that lacks what it should have is shown all the same', () => {
  const empty = readEdge({ id: 7, labels: null, scope: undefined })
  assert.deepEqual([empty.id, empty.name, empty.labels, empty.enrolled], ['7', '', {}, false])
  assert.deepEqual(readEdge('nothing').scope, '*')
})
