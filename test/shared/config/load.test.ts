import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { defineSection, loadConfig } from '../../../shared/config/load.ts'
import {
  choice,
  count,
  duration,
  flag,
  group,
  list,
  optional,
  path,
  port,
  size,
  text,
} from '../../../shared/config/options.ts'
import { ConfigError } from '../../../shared/config/problems.ts'
import { tempFolder } from '../../kit/temp.ts'

const description = 'An option.'

const shop = defineSection({
  name: 'shop',
  schema: group({
    name: optional(text({ description })),
    password: optional(
      text({ secret: true, pattern: '^[a-z]+$', form: 'of small letters', description }),
    ),
    password_file: optional(path({ description })),
    key: optional(text({ secret: true, description })),
    open: flag({ default: false, description }),
    mode: choice(['quick', 'slow'], { default: 'quick', description }),
    window: size({ default: '8MiB', minimum: 1024, description }),
    patience: duration({ default: '30s', description }),
    workers: count({ default: 4, minimum: 1, maximum: 8, description }),
    networks: list(text({ description }), { description }),
    tls: optional(group({ cert: path({ description }), key: path({ description }) })),
    doors: list(
      group({
        address: text({ default: 'front', description }),
        port: port({ default: 80, description }),
      }),
      {
        default: [{}],
        description,
      },
    ),
  }),
  checks: [
    {
      reads: ['doors'],
      check: ({ doors }, report) => {
        if (doors.length > 2) report('doors', 'are too many')
      },
    },
  ],
  complete: (options, common) => ({ ...options, sign: `${common.data}/sign` }),
})

interface Given {
  readonly yaml?: string
  readonly env?: Readonly<Record<string, string>>
  readonly flags?: unknown
}

async function load(test: TestContext, { yaml, env = {}, flags }: Given) {
  const folder = await tempFolder(test)
  const file = join(folder, 'outport.yaml')
  if (yaml !== undefined) await writeFile(file, yaml)
  return loadConfig({
    sections: [shop],
    file: yaml === undefined ? undefined : file,
    env,
    flags,
    workingFolder: '/work-folder',
  })
}

/** The problems of a configuration that must be refused, as `path: message` lines. */
async function problemsOf(test: TestContext, given: Given): Promise<readonly string[]> {
  try {
    await load(test, given)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error.message.split('\n')
  }
  assert.fail('the configuration was accepted')
}

describe('without anything given', () => {
  test('every option has its default, in bytes and milliseconds, and derived ones are filled in', async (t) => {
    const config = await load(t, {})
    assert.deepEqual(config, {
      data: '/work-folder/data',
      log: { level: 'info' },
      shop: {
        open: false,
        mode: 'quick',
        window: 8 * 2 ** 20,
        patience: 30_000,
        workers: 4,
        networks: [],
        doors: [{ address: 'front', port: 80 }],
        sign: '/work-folder/data/sign',
      },
    })
  })

  test('the result is frozen at every level', async (t) => {
    const config = await load(t, {})
    assert.ok(Object.isFrozen(config))
    assert.ok(Object.isFrozen(config.shop.doors))
    assert.ok(Object.isFrozen(config.shop.doors[0]))
  })
})

describe('the file', () => {
  test('is read with units, and an empty key means the default', async (t) => {
    const config = await load(t, {
      yaml: 'shop:\n  window: 1MiB\n  patience: 1m30s\n  workers:\n  open: true\n  mode: slow\n',
    })
    assert.equal(config.shop.window, 2 ** 20)
    assert.equal(config.shop.patience, 90_000)
    assert.equal(config.shop.workers, 4)
    assert.equal(config.shop.open, true)
    assert.equal(config.shop.mode, 'slow')
  })

  test('has its relative paths resolved against its own folder, others against the working folder', async (t) => {
    const config = await load(t, {
      yaml: 'data: store\nshop:\n  tls: {cert: tls/crt.pem, key: /etc/key.pem}\n',
      env: { OUTPORT_SHOP__PASSWORD_FILE: 'secret.txt' },
    })
    assert.match(config.data, /outport-test-\w+\/store$/)
    assert.match(config.shop.tls?.cert ?? '', /outport-test-\w+\/tls\/crt\.pem$/)
    assert.equal(config.shop.tls?.key, '/etc/key.pem')
    assert.equal(config.shop.password_file, '/work-folder/secret.txt')
  })

  test('may be empty, or hold comments only', async (t) => {
    assert.equal((await load(t, { yaml: '' })).shop.workers, 4)
    assert.equal((await load(t, { yaml: '# nothing yet\n' })).shop.workers, 4)
  })

  test('that is missing, broken or something else is said so', async (t) => {
    assert.throws(
      () => loadConfig({ sections: [shop], file: '/nowhere/outport.yaml', env: {} }),
      /^ConfigError: \/nowhere\/outport.yaml: cannot be read: no such file$/,
    )
    const [broken = ''] = await problemsOf(t, { yaml: 'shop: [unclosed' })
    assert.match(broken, /outport\.yaml: is not valid YAML: .* at line 1/)
    const [twice = ''] = await problemsOf(t, { yaml: 'data: a\ndata: b\n' })
    assert.match(twice, /is not valid YAML: Map keys must be unique/)
    assert.match((await problemsOf(t, { yaml: '- a\n' })).join(), /must hold options/)
  })
})

describe('the environment', () => {
  test('overrides the file, and flags override both', async (t) => {
    const yaml = 'shop: {workers: 2, mode: slow, name: file}\n'
    const env = { OUTPORT_SHOP__WORKERS: '3', OUTPORT_SHOP__NAME: 'env' }
    const flags = { shop: { name: 'flag', mode: undefined } }
    const { shop } = await load(t, { yaml, env, flags })
    assert.deepEqual([shop.workers, shop.mode, shop.name], [3, 'slow', 'flag'])
  })

  test('reaches list elements by index, on top of the default or of the file', async (t) => {
    const env = { OUTPORT_SHOP__DOORS__0__PORT: '81', OUTPORT_SHOP__DOORS__1__ADDRESS: 'back' }
    assert.deepEqual((await load(t, { env })).shop.doors, [
      { address: 'front', port: 81 },
      { address: 'back', port: 80 },
    ])
    const yaml = 'shop: {doors: [{address: side, port: 82}]}\n'
    assert.deepEqual(
      (await load(t, { yaml, env: { OUTPORT_SHOP__DOORS__0__PORT: '83' } })).shop.doors,
      [{ address: 'side', port: 83 }],
    )
  })

  test('gives a list of words by commas or by index', async (t) => {
    const commas = await load(t, { env: { OUTPORT_SHOP__NETWORKS: '10.0.0.0/8, fd00::/8' } })
    assert.deepEqual(commas.shop.networks, ['10.0.0.0/8', 'fd00::/8'])
    const index = await load(t, { env: { OUTPORT_SHOP__NETWORKS__0: '10.0.0.0/8' } })
    assert.deepEqual(index.shop.networks, ['10.0.0.0/8'])
  })

  test('takes a value from a file, without the newline behind it', async (t) => {
    const folder = await tempFolder(t)
    const file = join(folder, 'key')
    await writeFile(file, 'hush\n')
    const { shop } = await load(t, { env: { OUTPORT_SHOP__KEY_FILE: file } })
    assert.equal(shop.key, 'hush')
  })

  test("prefers an option's own name that ends in _file over reading a file", async (t) => {
    const { shop } = await load(t, { env: { OUTPORT_SHOP__PASSWORD_FILE: '/run/secret' } })
    assert.equal(shop.password_file, '/run/secret')
    assert.equal(shop.password, undefined)
  })

  test('with an empty value counts as not set', async (t) => {
    assert.equal((await load(t, { env: { OUTPORT_SHOP__WORKERS: '' } })).shop.workers, 4)
  })

  test('is refused where no option has that name, with a hint', async (t) => {
    const problems = await problemsOf(t, {
      env: {
        OUTPORT_SHOP__WROKERS: '3',
        OUTPORT_SHOP_WORKERS: '3',
        OUTPORT_SHOP__DOORS__PORT: '3',
        OUTPORT_SHOP__DOORS: '3',
        OUTPORT_SHOP: '3',
        OUTPORT_SHOP__KEY_FILE: '/nowhere/key',
      },
    })
    assert.deepEqual(problems, [
      'OUTPORT_SHOP: names a group of options: set one of name, password, password_file, key, open, mode, window, patience, workers, networks, tls, doors',
      'OUTPORT_SHOP_WORKERS: unknown variable (a level of the configuration is separated by two underscores)',
      "OUTPORT_SHOP__DOORS: names a list of groups: set its elements' options (OUTPORT_SHOP__DOORS__0__ADDRESS)",
      "OUTPORT_SHOP__DOORS__PORT: unknown variable: the option 'shop.doors' is a list, its elements are numbered from 0 (OUTPORT_SHOP__DOORS__0…)",
      'OUTPORT_SHOP__KEY_FILE: cannot read /nowhere/key: no such file',
      "OUTPORT_SHOP__WROKERS: unknown variable; did you mean 'OUTPORT_SHOP__WORKERS'?",
    ])
  })

  test('of a Kubernetes pod beside a Service named outport is no problem', async (t) => {
    await load(t, {
      env: {
        OUTPORT_SERVICE_HOST: '10.0.0.1',
        OUTPORT_SERVICE_PORT: '80',
        OUTPORT_SERVICE_PORT_HTTP: '80',
        OUTPORT_PORT: 'tcp://10.0.0.1:80',
        OUTPORT_PORT_80_TCP: 'tcp://10.0.0.1:80',
        OUTPORT_PORT_80_TCP_PROTO: 'tcp',
        OUTPORT_PORT_80_TCP_PORT: '80',
        OUTPORT_PORT_80_TCP_ADDR: '10.0.0.1',
        OUTPORT_SHOP_SERVICE_HOST: '10.0.0.2',
        OUTPORT_SHOP_PORT: 'tcp://10.0.0.2:80',
        OUTPORT_CONFIG: '/etc/outport.yaml',
        PATH: '/bin',
      },
    })
    assert.equal((await problemsOf(t, { env: { OUTPORT_SHOP_PORT: '80' } })).length, 1)
  })
})

describe('flags', () => {
  test('reach elements of a list without touching the others', async (t) => {
    const { shop } = await load(t, {
      yaml: 'shop: {doors: [{address: a}, {address: b}]}\n',
      flags: { shop: { doors: [undefined, { port: 0 }] } },
    })
    assert.deepEqual(shop.doors, [
      { address: 'a', port: 80 },
      { address: 'b', port: 0 },
    ])
  })

  test('replace a list of words whole', async (t) => {
    const { shop } = await load(t, {
      yaml: 'shop: {networks: [a, b]}\n',
      flags: { shop: { networks: ['c'] } },
    })
    assert.deepEqual(shop.networks, ['c'])
  })
})

describe('what the data folder knows', () => {
  const load = (t: TestContext, { yaml = '', flags = {} }: { yaml?: string; flags?: object }) =>
    tempFolder(t).then(async (folder) => {
      const file = join(folder, 'outport.yaml')
      await writeFile(file, yaml)
      const asked: string[] = []
      const { shop: loaded } = loadConfig({
        sections: [shop],
        file,
        env: { OUTPORT_SHOP__WORKERS: '2' },
        flags,
        fallbacks: ({ data }) => {
          asked.push(data)
          const options = {
            name: 'known',
            workers: 8,
            mode: 'slow',
            tls: { cert: '/c', key: '/k' },
          }
          return { source: 'the folder', options: { shop: options } }
        },
      })
      return { loaded, asked, folder }
    })

  test('stands where file, environment and flags say nothing, and goes before defaults', async (t) => {
    const { loaded, asked, folder } = await load(t, {
      yaml: 'data: kept\nshop: {tls: {cert: /mine}, name: null}\n',
      flags: { shop: { mode: 'quick' } },
    })
    assert.deepEqual(asked, [join(folder, 'kept')])
    const { name, workers, mode, tls } = loaded
    assert.deepEqual(
      [name, workers, mode, tls],
      ['known', 2, 'quick', { cert: '/mine', key: '/k' }],
    )
  })

  test('is asked of the folder of the flags before that of the file', async (t) => {
    const { asked } = await load(t, { yaml: 'data: kept\n', flags: { data: '/other' } })
    assert.deepEqual(asked, ['/other'])
  })

  test('hides nothing that is wrong, and is named where it is wrong itself', async (t) => {
    await assert.rejects(load(t, { yaml: 'shop: {tls: 3}\n' }), /shop\.tls: must/)
    assert.throws(
      () =>
        loadConfig({
          sections: [shop],
          env: {},
          fallbacks: () => ({ source: 'the folder', options: { shop: { workers: 99 } } }),
        }),
      /shop\.workers: must be at most 8, not 99 \(from the folder\)/,
    )
  })
})

describe('problems', () => {
  test('are all told at once, each with its path, and where the value came from', async (t) => {
    const problems = await problemsOf(t, {
      yaml: [
        'date: x',
        'shop:',
        '  open: maybe',
        '  mode: fast',
        '  window: 12 parsecs',
        '  patience: 30',
        '  networks: 10.0.0.0/8',
        '  tls: {cert: a.pem}',
        '  doors: [{port: 70000}, {}, {prot: 1}]',
        '  name: 7',
      ].join('\n'),
      env: { OUTPORT_SHOP__WORKERS: 'many' },
    })
    assert.deepEqual(problems, [
      "date: unknown option; did you mean 'data'?",
      'shop.name: must be text (in quotes, if it looks like a number), not 7',
      'shop.open: must be true or false, not "maybe"',
      "shop.mode: must be 'quick' or 'slow', not \"fast\"",
      'shop.window: must be a size like 64MiB, not "12 parsecs"',
      'shop.patience: must be a duration like 30s or 5m, not 30',
      'shop.workers: must be a whole number, not "many" (from OUTPORT_SHOP__WORKERS)',
      'shop.networks: must be a list, not "10.0.0.0/8"',
      'shop.tls.key: is required',
      'shop.doors.0.port: must be at most 65535, not 70000',
      "shop.doors.2.prot: unknown option; did you mean 'port'?",
      'shop.doors: are too many',
    ])
  })

  test('of several options together are told when each of them is fine by itself', async (t) => {
    const problems = await problemsOf(t, { yaml: 'shop: {workers: 0, doors: [{}, {}, {}]}\n' })
    assert.deepEqual(problems, [
      'shop.workers: must be at least 1, not 0',
      'shop.doors: are too many',
    ])
  })

  test('never show a secret', async (t) => {
    const problems = await problemsOf(t, { yaml: 'shop: {password: HUNTER2, key: [HUNTER2]}\n' })
    assert.deepEqual(problems, [
      'shop.password: must be of small letters',
      'shop.key: must be text (in quotes, if it looks like a number)',
    ])
    const broken = await problemsOf(t, { yaml: 'shop: {password: HUNTER2, key: "x}\n' })
    assert.doesNotMatch(broken.join(), /HUNTER2/)
  })

  test('of a size say its bounds', async (t) => {
    const [problem] = await problemsOf(t, { yaml: 'shop: {window: 1B}\n' })
    assert.equal(problem, 'shop.window: must be at least 1KiB, not "1B"')
  })

  test('are told of a list with a gap', async (t) => {
    const [problem] = await problemsOf(t, { env: { OUTPORT_SHOP__DOORS__2__PORT: '1' } })
    assert.match(
      problem ?? '',
      /^shop\.doors\.1: is missing: the elements of a list are numbered from 0/,
    )
  })

  test('are told of prototype keys like of any other', async (t) => {
    const problems = await problemsOf(t, {
      yaml: 'shop: {constructor: 1, __proto__: {open: true}}\n',
    })
    assert.match(problems.join('\n'), /shop\.constructor: unknown option/)
  })
})
