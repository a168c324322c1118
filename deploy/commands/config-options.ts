/** The options of every command that starts something. */
export const configOptions = {
  config: {
    type: 'string',
    value: 'FILE',
    help: 'the YAML configuration (else OUTPORT_CONFIG names it, else defaults)',
  },
  check: {
    type: 'boolean',
    help: 'print the resolved configuration without secrets, or everything that is wrong with it',
  },
  data: { type: 'string', value: 'DIR', help: 'the data folder (default ./data)' },
} as const

/** What `configOptions` were given as. */
export interface ConfigFlags {
  readonly config: string | undefined
  readonly data: string | undefined
}
