import { parseArgs } from 'node:util'

/** One option of a command, as `--help` shows it. */
export interface CommandOption {
  readonly type: 'string' | 'boolean'
  /** May be given more than once. */
  readonly multiple?: boolean
  /** What stands for the value in the help: `FILE`. */
  readonly value?: string
  readonly help: string
}

type ValueOf<Option extends CommandOption> = Option['type'] extends 'boolean'
  ? boolean
  : Option extends { readonly multiple: true }
    ? readonly string[]
    : string | undefined

/** The values of a command's options: text or absent, a list for those given more than once, false for a missing flag. */
type OptionValues<Options extends Record<string, CommandOption>> = {
  readonly [Name in keyof Options]: ValueOf<Options[Name]>
}

interface CommandDefinition<Options extends Record<string, CommandOption>> {
  /** What is typed after `outport`: `certs issue`. */
  readonly name: string
  /** What it does, in one line. */
  readonly summary: string
  /** Words that follow the name, each named for the help and all required. */
  readonly words?: readonly string[]
  readonly options: Options
  /** What the help says below the options. */
  readonly notes?: string
  /** @returns the exit code */
  run(options: OptionValues<Options>, words: readonly string[]): Promise<number>
}

/** A command that a group chooses. */
export interface Choice {
  readonly name: string
  readonly summary: string
  /** Runs the command with the arguments behind its name; throws UsageError when they are wrong. */
  main(args: readonly string[]): Promise<number>
}

/** A command of the command line. */
export interface Command extends Choice {
  /** The text of `--help`. */
  help(): string
}

/** A command that is loaded only when it is chosen. */
export interface LaterCommand extends Choice {
  load(): Promise<Command>
}

/** What was typed is wrong: the message says what, and what exists. Exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Makes a command whose arguments are checked, and whose `run` sees them with their types. */
export function defineCommand<const Options extends Record<string, CommandOption>>(
  definition: CommandDefinition<Options>,
): Command {
  const help = () => formatHelp(definition)
  return {
    name: definition.name,
    summary: definition.summary,
    help,
    async main(args) {
      if (asksForHelp(args)) {
        process.stdout.write(help())
        return 0
      }
      const { values, words } = parseArguments(definition, args)
      return definition.run(values as OptionValues<Options>, words)
    },
  }
}

/** Makes a choice that takes its command's modules only when it is made; name and summary are the command's. */
export function later(name: string, summary: string, load: () => Promise<Command>): LaterCommand {
  return { name, summary, load, main: async (args) => (await load()).main(args) }
}

/** Makes a command that only chooses among others: `certs`. */
export function defineGroup<Each extends Choice>(
  name: string,
  summary: string,
  commands: readonly Each[],
): Command & { readonly commands: readonly Each[] } {
  const help = () => formatGroupHelp(name, summary, commands)
  return {
    name,
    summary,
    commands,
    help,
    async main([first, ...rest]) {
      if (first === undefined || first === '--help' || first === '-h' || first === 'help') {
        process.stdout.write(help())
        return first === undefined ? 2 : 0
      }
      const command = commands.find((each) => each.name === joinName(name, first))
      if (command === undefined) throw new UsageError(unknownCommand(name, first, commands))
      return command.main(rest)
    },
  }
}

/** A command that does something by itself, and has others below it: `edge`, and `edge join`. */
export function withCommands(command: Command, commands: readonly Command[]): Command {
  const help = () =>
    [
      command.help().trimEnd(),
      '',
      'Commands:',
      ...formatRows(commands.map(({ name, summary }) => [name, summary])),
      '',
    ].join('\n')
  return {
    name: command.name,
    summary: command.summary,
    help,
    async main(args) {
      const [first = '', ...rest] = args
      const below = commands.find(({ name }) => name === joinName(command.name, first))
      if (below !== undefined) return below.main(rest)
      if (first !== '' && !first.startsWith('-'))
        throw new UsageError(unknownCommand(command.name, first, commands))
      if (!asksForHelp(args)) return command.main(args)
      process.stdout.write(help())
      return 0
    },
  }
}

function joinName(group: string, word: string): string {
  return group === 'outport' ? word : `${group} ${word}`
}

function asksForHelp(args: readonly string[]): boolean {
  const end = args.indexOf('--')
  return args.slice(0, end === -1 ? undefined : end).some((arg) => arg === '--help' || arg === '-h')
}

type Values = Record<string, string | boolean | string[] | undefined>

/** parseArgs reads; the refusals are ours, because its own run over several lines and name no alternative. */
function parseArguments(
  definition: CommandDefinition<Record<string, CommandOption>>,
  args: readonly string[],
): { values: Values; words: readonly string[] } {
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      Object.entries(definition.options).map(([name, { type }]) => [name, { type }]),
    ),
    strict: false,
    tokens: true,
  })
  const values = emptyValues(definition.options)
  const words: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind === 'option') {
      addValue({ definition, values, name: token.name, rawName: token.rawName, value: token.value })
    }
  }
  checkWords(definition, words)
  return { values, words }
}

function emptyValues(options: Record<string, CommandOption>): Values {
  return Object.fromEntries(
    Object.entries(options).map(([name, option]): [string, Values[string]] => {
      if (option.type === 'boolean') return [name, false]
      return [name, option.multiple === true ? [] : undefined]
    }),
  )
}

interface GivenOption {
  readonly definition: CommandDefinition<Record<string, CommandOption>>
  readonly values: Values
  readonly name: string
  readonly rawName: string
  readonly value: string | undefined
}

function addValue({ definition, values, name, rawName, value }: GivenOption): void {
  const option = Object.hasOwn(definition.options, name) ? definition.options[name] : undefined
  if (option === undefined || !rawName.startsWith('--')) {
    const known = Object.keys(definition.options).map((each) => `--${each}`)
    throw new UsageError(
      `outport ${definition.name} has no option ${rawName}; it has ${[...known, '--help'].join(', ')}`,
    )
  }
  if (option.type === 'boolean') {
    if (value !== undefined) throw new UsageError(`${rawName} takes no value`)
    values[name] = true
    return
  }
  // A value that looks like an option is a forgotten value; one that really starts so is written --name=-value.
  if (value === undefined || value === '' || (value.startsWith('--') && value.length > 2)) {
    throw new UsageError(`${rawName} needs a value: ${rawName} ${option.value ?? 'VALUE'}`)
  }
  const before = values[name]
  if (Array.isArray(before)) before.push(value)
  else if (before === undefined) values[name] = value
  else throw new UsageError(`${rawName} is given twice`)
}

function checkWords(
  { name, words: wanted = [] }: CommandDefinition<Record<string, CommandOption>>,
  words: readonly string[],
): void {
  const extra = words[wanted.length]
  if (extra !== undefined) {
    throw new UsageError(`outport ${name} does not know what to do with '${extra}'; see --help`)
  }
  const missing = wanted[words.length]
  if (missing !== undefined) throw new UsageError(`outport ${name} needs ${missing}; see --help`)
}

function unknownCommand(group: string, word: string, commands: readonly Choice[]): string {
  const names = commands.map((command) => command.name.split(' ').at(-1))
  const of = group === 'outport' ? '' : ` of outport ${group}`
  const what = word.startsWith('-') ? 'option' : 'command'
  return `there is no ${what} ${word}${of}; the commands are ${names.join(', ')}`
}

function formatHelp(definition: CommandDefinition<Record<string, CommandOption>>): string {
  const words = (definition.words ?? []).map((word) => ` ${word}`).join('')
  const rows = Object.entries(definition.options).map(([name, option]): [string, string] => [
    option.type === 'boolean' ? `--${name}` : `--${name} ${option.value ?? 'VALUE'}`,
    option.multiple === true ? `${option.help} (may be repeated)` : option.help,
  ])
  rows.push(['--help', 'this text'])
  return [
    `outport ${definition.name}: ${definition.summary}`,
    '',
    `Usage: outport ${definition.name}${words} [OPTION…]`,
    '',
    ...formatRows(rows),
    ...(definition.notes === undefined ? [] : ['', definition.notes.trim()]),
    '',
  ].join('\n')
}

function formatGroupHelp(name: string, summary: string, commands: readonly Choice[]): string {
  const typed = name === 'outport' ? 'outport' : `outport ${name}`
  return [
    `${typed}: ${summary}`,
    '',
    `Usage: ${typed} COMMAND [OPTION…]`,
    '',
    ...formatRows(commands.map((command) => [command.name, command.summary])),
    '',
    `'outport COMMAND --help' says more.`,
    '',
  ].join('\n')
}

function formatRows(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`)
}
