import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { waitFor } from '../kit/clock.ts'
import { tempFolder } from '../kit/temp.ts'
import { gone, startProgram, type Program } from './program.ts'

interface Launcher {
  readonly node?: string
  readonly nodeOptions?: readonly string[]
}

interface Said {
  readonly pid: number
  readonly version: string
  readonly rest: readonly string[]
  readonly malloc: readonly string[]
  readonly NODE_COMPILE_CACHE?: string
  readonly OUTPORT_LAUNCHER?: string
}

/** The machine's own Node where it is too old for the program: the launcher's real case. */
function oldNode(): string | undefined {
  const node = '/usr/bin/node'
  if (!existsSync(node)) return undefined
  const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' })
  return /^v(?:18|20|22)\./.test(stdout) ? node : undefined
}

const root = resolve(import.meta.dirname, '../..')
const old = oldNode()
const launchers: Readonly<Record<string, Launcher>> = {
  'becoming the program': {},
  'standing in for it': { nodeOptions: ['--import', 'data:text/javascript,delete process.execve'] },
  ...(old === undefined ? {} : { "on the machine's own Node": { node: old } }),
}

for (const [name, launcher] of Object.entries(launchers)) {
  describe(`the launcher, ${name}`, () => {
    const launch = (t: TestContext, args: readonly string[], env = {}): Program => {
      const command = ['deploy/launch.mjs', '--run', 'test/deploy/launched.ts', ...args] as const
      return startProgram(t, [command[0], ...command.slice(1)], { ...launcher, env })
    }
    const said = async (program: Program): Promise<Said> => {
      const line = await waitFor('its line', () => /^\{.*\}$/m.exec(program.stdout())?.[0])
      return JSON.parse(line) as Said
    }

    test('passes arguments and the exit code on, on a Node that is new enough', async (t) => {
      const program = launch(t, ['code', '--check', 'a b'])
      assert.equal(await program.ended(), 5)
      const { rest, version, OUTPORT_LAUNCHER } = await said(program)
      assert.deepEqual(rest, ['--check', 'a b'])
      assert.ok(Number(version.split('.')[0]) >= 24)
      assert.equal(OUTPORT_LAUNCHER, undefined)
      assert.equal(program.stderr(), '')
    })

    test('sets the malloc variables, except those that are set', async (t) => {
      const program = launch(t, ['code'], { MALLOC_TOP_PAD_: '65536' })
      assert.deepEqual((await said(program)).malloc, ['65536', '33554432'])
    })

    test('has what is compiled kept beside the code, unless the user says where', async (t) => {
      const kept = async (where: string | undefined) =>
        (await said(launch(t, ['code'], { NODE_COMPILE_CACHE: where }))).NODE_COMPILE_CACHE
      assert.equal(await kept(undefined), join(root, 'node_modules/.cache/outport'))
      const chosen = join(await tempFolder(t), 'chosen')
      assert.equal(await kept(chosen), chosen)
    })

    test('passes SIGTERM to itself alone on, and the code behind it back', async (t) => {
      const program = launch(t, ['graceful'])
      await said(program)
      program.child.kill('SIGTERM')
      assert.equal(await program.ended(), 7)
      assert.match(program.stdout(), /^graceful$/m)
    })

    test('ends by the signal that ended the program', async (t) => {
      const program = launch(t, ['wait'])
      await said(program)
      program.child.kill('SIGTERM')
      assert.equal(await program.ended(), 'SIGTERM')
      assert.equal(await launch(t, ['abort']).ended(), 'SIGKILL')
    })

    test('leaves no program behind when it is killed', async (t) => {
      const program = launch(t, ['graceful'])
      const { pid } = await said(program)
      program.child.kill('SIGKILL')
      await gone(pid)
      // One that was another process had the time to stop by itself.
      await program.ended()
      assert.equal(/^graceful$/m.test(program.stdout()), pid !== program.pid)
    })

    test('lets Ctrl-C, which reaches the whole group, stop the program gracefully', async (t) => {
      const data = join(await tempFolder(t), 'data')
      const program = startProgram(
        t,
        ['deploy/launch.mjs', '--run', 'test/deploy/stand-in-up.ts', data, '--json'],
        { ...launcher, ownGroup: true },
      )
      await waitFor('the line of JSON', () => program.stdout().includes('\n'))
      process.kill(-program.pid, 'SIGINT')
      assert.equal(await program.ended(), 0)
    })
  })
}

test('where nothing can be kept beside the code, the programs are left to keep it themselves', async (t) => {
  const folder = await tempFolder(t)
  await cp(join(root, 'deploy/launch.mjs'), join(folder, 'deploy/launch.mjs'))
  const program = startProgram(
    t,
    [join(folder, 'deploy/launch.mjs'), '--run', join(root, 'test/deploy/launched.ts'), 'code'],
    { env: { NODE_COMPILE_CACHE: undefined } },
  )
  assert.equal(await program.ended(), 5)
  assert.doesNotMatch(program.stdout(), /NODE_COMPILE_CACHE/)
})

test('--run without a file is refused in one line', async (t) => {
  const program = startProgram(t, ['deploy/launch.mjs', '--run'])
  assert.equal(await program.ended(), 1)
  assert.match(program.stderr(), /^outport: --run needs a file.*\n$/)
})
